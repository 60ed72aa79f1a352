"""The connection of a process to a Ray cluster, and the environment variables that it needs. Ray reads them early."""

from __future__ import annotations

import logging
import os
from typing import Any

from aoti_serve.cluster.ray_private import silence_raylets
from aoti_serve.errors import StartFailed

# With 0 Ray listens on 127.0.0.1 only, as on macOS; every program that joins needs the same value.
LOCAL_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
AUTH_MODE = "RAY_AUTH_MODE"
# Objects are freed at once, not once a second: else chunks of weights pile up in the object store. Replicas and
# gateways run like other processes: as nice as Ray makes its workers, they would wait for all that are busy.
WANTED = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_free_objects_period_milliseconds": "0",
    "RAY_worker_niceness": "0",
}
PRIVATE = 0o077


def prepare_for_ray() -> None:
    """Set up this process to start a cluster of its own. Variables that are set already stay."""
    os.umask(PRIVATE)  # Ray writes its token, the key to the whole cluster, with the mode that the umask leaves
    for key, value in WANTED.items():
        os.environ.setdefault(key, value)


def ray_variables(address: str, *, token: bool) -> str:
    """The environment variables with which a program on this machine joins the cluster, as a shell takes them.

    `token` says that the cluster asks for Ray's token.
    """
    local = {LOCAL_ONLY: os.environ[LOCAL_ONLY]} if LOCAL_ONLY in os.environ else {}
    wanted = local | ({AUTH_MODE: "token"} if token else {}) | {"RAY_ADDRESS": address}
    return " ".join(f"{key}={value}" for key, value in wanted.items())


def connect(address: str, *, verbose: bool = False, **options: Any) -> Any:
    """Connect to the cluster at `address`, or start one for 'local'. Returns Ray's context. Raises StartFailed.

    Ray and Serve are silent but for errors; `verbose` lets them speak, and what workers print comes here.
    """
    import ray

    if not verbose:
        silence_raylets()
    level = logging.INFO if verbose else logging.ERROR
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(level)
    try:
        return ray.init(address=address, log_to_driver=verbose, logging_level=level, **options)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, AuthenticationError, ...
        what = "Ray does not start" if address == "local" else f"cannot join the Ray cluster at {address}"
        raise StartFailed(detail=f"{what}: {str(error).strip().splitlines()[-1]}") from error
