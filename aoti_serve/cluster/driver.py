"""The process that asks: a driver, a task or an actor of a Ray cluster."""

from __future__ import annotations

import os

import ray

from aoti_serve.errors import TryAgain


def require_cluster() -> None:
    """Raise Unavailable outside of a cluster: Ray would start one of its own, in which nothing is served."""
    if not ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
        raise TryAgain(
            detail="this process has not joined a Ray cluster: set RAY_ADDRESS, and RAY_AUTH_MODE=token if the cluster "
            "asks for its token (`aoti-serve up` prints both), or call ray.init() first"
        )
