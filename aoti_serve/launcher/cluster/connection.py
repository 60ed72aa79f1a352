"""The connection of this process to a Ray cluster."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import ray

from aoti_serve.errors import StartFailed


def connect(address: str) -> Any:
    """Connect to the cluster at `address`, or start one for 'local'. Returns Ray's context. Raises StartFailed."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, AuthenticationError, ...
        what = "Ray does not start" if address == "local" else f"cannot join the Ray cluster at {address}"
        raise StartFailed(detail=f"{what}: {str(error).strip().splitlines()[-1]}") from error


def ping() -> None:
    """Return once the head of the cluster has answered."""
    if ray.is_initialized():
        ray.nodes()


def shut_down() -> None:
    with suppress(Exception):
        ray.shutdown()


def metrics_of(node: str) -> str:
    """The URL at which Ray's agent on a node exports metrics to Prometheus; each node has one."""
    found = next(entry for entry in ray.nodes() if entry["NodeID"] == node)
    return f"http://{found['NodeManagerAddress']}:{found['MetricsExportPort']}/metrics"
