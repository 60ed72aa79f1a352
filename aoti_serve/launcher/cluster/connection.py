"""The connection to a Ray cluster."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import ray

from aoti_serve.errors import StartFailed


def connect(address: str) -> Any:
    """Ray's context of the cluster at `address`; 'local' starts one. Raises StartFailed."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # ConnectionError, RuntimeError, an AuthenticationError: as it comes
        what = "Ray does not start" if address == "local" else f"cannot join the Ray cluster at {address}"
        raise StartFailed(detail=f"{what}: {str(error).strip().splitlines()[-1]}") from error


def ping() -> None:
    """Returns once the cluster's head has answered."""
    if ray.is_initialized():
        ray.nodes()


def shut_down() -> None:
    with suppress(Exception):
        ray.shutdown()


def metrics_of(node: str) -> str:
    """Where Ray's agent on a node shows metrics to Prometheus; each node has one."""
    found = next(entry for entry in ray.nodes() if entry["NodeID"] == node)
    return f"http://{found['NodeManagerAddress']}:{found['MetricsExportPort']}/metrics"
