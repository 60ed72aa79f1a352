"""Who takes part: each server, how it is started, and where it is asked."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from httpbench.bodies import Protocol
from httpbench.environments import BASELINES, installed
from httpbench.servers import Server, free_port

V2_PATH = "/v2/models/mlp/infer"
PLACEMENTS = ("split", "fused")


class Load(NamedTuple):
    """How many connections ask all the time, with so many rows per request."""

    connections: int
    rows: int = 1


BUSY, ALONE = Load(64), Load(1)
HEAVY_BATCH, HEAVY_RUNNERS = 8, 2
# Every runner busy, and two batches more for each: of many requests, or each of them one.
HEAVY, HEAVY_WHOLE = Load(3 * HEAVY_BATCH * HEAVY_RUNNERS), Load(3 * HEAVY_RUNNERS, HEAVY_BATCH)


class Endpoint(NamedTuple):
    """One thing that is measured. `echoes`: it answers with what it was sent, and computes nothing."""

    name: str
    path: str
    protocol: Protocol
    loads: tuple[Load, ...] = (BUSY, ALONE)
    echoes: bool = False


class Contender(NamedTuple):
    server: Server
    endpoints: tuple[Endpoint, ...]

    @property
    def name(self) -> str:
        return self.server.name


class Model(NamedTuple):
    """A compiled package and its weights, as ours serves them."""

    package: Path
    weights: Path
    num_runners: int = 1
    max_batch_size: int = 64
    max_queue_wait_ms: int = 500


def ours(model: Model, placement: str, *, replicas: int = 1, name: str = "") -> Server:
    """`aoti-serve up` as a user starts it."""
    folder, name = model.package.parent, name or f"ours-{placement}"
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(_config(model, placement, replicas, folder / f"{name}.versions")))
    program = str(Path(sys.executable).parent / "aoti-serve")
    token = {"AOTI_SERVE_ADMIN_TOKEN": secrets.token_hex(32)}
    return Server(name, lambda port: [program, "up", str(config), "--port", str(port)], token, folder)


def _config(model: Model, placement: str, replicas: int, store: Path) -> dict[str, Any]:
    entry = {
        "name": "mlp",
        "package": str(model.package),
        "weights": str(model.weights),
        "store": str(store),
        "num_runners": model.num_runners,
        "replicas": replicas,
        "placement": placement,
        "batching": {"max_batch_size": model.max_batch_size, "max_queue_wait_ms": model.max_queue_wait_ms},
    }
    application = {"name": "default", "route_prefix": "/", "import_path": "aoti_serve.app:build"}
    return {"applications": [application | {"args": {"models": [entry]}}]}


def our_endpoints(name: str, loads: Iterable[Load]) -> tuple[Endpoint, ...]:
    return Endpoint(name, V2_PATH, "v2", tuple(loads)), Endpoint(f"{name}, JSON", V2_PATH, "json", (BUSY,))


def ray_serve() -> Contender:
    """`@serve.batch` with Ray's default settings."""
    return Contender(_ray("ray_serve", "batched"), (Endpoint("ray_serve", "/", "raw"),))


def ray_serve_fast(loads: Iterable[Load]) -> Contender:
    """The same with HAProxy and Ray's throughput settings, waiting for batches and not; beside it the ingress alone."""
    loads = tuple(loads)
    endpoints = (
        Endpoint("ray_serve_fast 2 ms", "/", "raw", loads),
        Endpoint("ray_serve_fast 0 ms", "/eager", "raw", loads),
        Endpoint("noop", "/noop", "raw", echoes=True),
    )
    return Contender(_ray("ray_serve_fast", "batched,eager,noop", fast=True), endpoints)


def _ray(name: str, apps: str, *, fast: bool = False) -> Server:
    script = str(BASELINES / "ray_app.py")
    command = [sys.executable, "-W", "ignore", script, "--apps", apps]
    return Server(name, lambda port: [*command, "--port", str(port)], _fast_flags() if fast else {}, BASELINES)


def _fast_flags() -> dict[str, str]:
    """What makes Ray's ingress fast; and ports that no other Ray on this machine has."""
    ports = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT")
    flags = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    flags |= {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1", "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0"}
    flags["RAY_SERVE_HAPROXY_NBTHREAD"] = str(min(4, len(os.sched_getaffinity(0))))
    return flags | {port: str(free_port()) for port in ports}


def litserve() -> Contender:
    command = [str(installed("litserve")), "litserve_app.py"]
    server = Server("litserve", lambda port: [*command, "--port", str(port)], {}, BASELINES)
    return Contender(server, (Endpoint("litserve", "/predict", "raw"),))


def pytriton(loads: Iterable[Load], folder: Path) -> Contender:
    command = [str(installed("pytriton")), "pytriton_app.py"]
    env = {"PYTRITON_HOME": str(folder / "pytriton")}
    server = Server("pytriton", lambda port: [*command, "--port", str(port)], env, BASELINES)
    return Contender(server, (Endpoint("pytriton", V2_PATH, "v2", tuple(loads)),))


def fastapi(loads: Iterable[Load]) -> Contender:
    command = [str(installed("fastapi")), "-m", "uvicorn", "fastapi_app:app", "--no-access-log", "--host", "127.0.0.1"]
    server = Server("fastapi", lambda port: [*command, "--port", str(port)], {}, BASELINES)
    return Contender(server, (Endpoint("fastapi", "/", "raw", tuple(loads)),))
