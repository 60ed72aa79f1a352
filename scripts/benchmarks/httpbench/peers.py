"""The other servers, each in every setting that may be its best, and Ray's ingress with nothing behind it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from httpbench.contenders import FASTEST_OF_RAY, NOOP, V2_PATH, Contender, Endpoint
from httpbench.environments import BASELINES, installed
from httpbench.loads import ALONE, BATCH, BUSY, Load
from httpbench.servers import Server, free_port

LARGE_BATCH = 4096  # Triton refuses a request with more rows than a batch holds


class Task(NamedTuple):
    """What all of them serve, on so many threads, and which loads they are measured under.

    `module` is a name that scripts/baselines/eager.py knows, `most` the rows that it takes at once (0: any number);
    `folder` is for what a server has to put somewhere.
    """

    loads: Sequence[Load]
    folder: Path
    module: str = "mlp"
    most: int = 0
    copies: int = 1
    max_batch_size: int = BATCH

    @property
    def flags(self) -> list[str]:
        return ["--copies", str(self.copies), "--max-batch-size", str(self.max_batch_size)]


def ray_serve(task: Task) -> list[Contender]:
    """`@serve.batch` with Ray's default settings."""
    return [_contender("ray_serve", _ray(task, "batched"), {}, task, [("ray_serve", "/")])]


def ray_serve_fast(task: Task) -> list[Contender]:
    """With HAProxy, Ray's throughput settings and no access log, waiting for batches and not; and the ingress alone."""
    endpoints = [(f"{FASTEST_OF_RAY}, 2 ms", "/"), (f"{FASTEST_OF_RAY}, 0 ms", "/eager")]
    command = [*_ray(task, "batched,eager,noop"), "--quiet"]
    fast = _contender(FASTEST_OF_RAY, command, _fast_flags(), task, endpoints)
    noop = Endpoint(NOOP, "/noop", "raw", (BUSY, ALONE), echoes=True)
    return [fast if task.copies > 1 else fast._replace(endpoints=(*fast.endpoints, noop))]


def litserve(task: Task) -> list[Contender]:
    return [_contender("litserve", _app("litserve", task), {}, task, [("litserve", "/predict")])]


def litserve_repaired(task: Task) -> list[Contender]:
    """With its fast queue, which it has and never uses."""
    command = [*_app("litserve", task), "--repaired"]
    return [_contender("litserve_repaired", command, {}, task, [("litserve_repaired", "/predict")])]


def pytriton(task: Task) -> list[Contender]:
    """Without a delay, with one, and with batches as large as the largest request."""
    env = {"PYTRITON_HOME": str(task.folder / "pytriton")}
    fitting = [load for load in task.loads if load.rows <= task.max_batch_size]
    large = [load for load in task.loads if load.rows > 1]
    settings: dict[str, tuple[list[str], list[Load]]] = {
        "pytriton, 0 ms": ([], fitting),
        "pytriton, 2 ms": (["--delay-ms", "2"], [load for load in fitting if load.connections > 1]),
        f"pytriton, batches of {LARGE_BATCH}": (["--max-batch-size", str(LARGE_BATCH)], large),
    }
    return [
        Contender(_server(name, [*_app("pytriton", task), *flags], env, task), (_v2(name, loads),))
        for name, (flags, loads) in settings.items()
        if loads
    ]


def fastapi(task: Task) -> list[Contender]:
    """One process; for a model with several copies as many processes, or one with as many threads."""
    command = [str(installed("fastapi")), "-m", "uvicorn", "fastapi_app:app", "--no-access-log", "--host", "127.0.0.1"]
    if task.copies == 1:
        return [_contender("fastapi", command, {}, task, [("fastapi", "/")])]
    workers, threads = (f"fastapi, {task.copies} {kind}" for kind in ("processes", "threads"))
    env = {"BASELINE_THREADS": str(task.copies)}
    return [
        _contender(workers, [*command, "--workers", str(task.copies)], {}, task, [(workers, "/")]),
        _contender(threads, command, env, task, [(threads, "/threads")]),
    ]


KNOWN: dict[str, Callable[[Task], list[Contender]]] = {
    made.__name__: made for made in (ray_serve, ray_serve_fast, litserve, litserve_repaired, pytriton, fastapi)
}


def _contender(
    name: str, command: Sequence[str], env: dict[str, str], task: Task, asked: Sequence[tuple[str, str]]
) -> Contender:
    """`asked`: names and paths that take and give the rows alone."""
    endpoints = tuple(Endpoint(each, path, "raw", tuple(task.loads)) for each, path in asked)
    return Contender(_server(name, command, env, task), endpoints)


def _v2(name: str, loads: Sequence[Load]) -> Endpoint:
    return Endpoint(name, V2_PATH, "v2", tuple(loads))


def _server(name: str, command: Sequence[str], env: dict[str, str], task: Task) -> Server:
    env = {"BASELINE_MODULE": task.module, "BASELINE_ROWS": str(task.most), **env}
    return Server(name, lambda port: [*command, "--port", str(port)], env, BASELINES)


def _app(name: str, task: Task) -> list[str]:
    return [str(installed(name)), f"{name}_app.py", *task.flags]


def _ray(task: Task, apps: str) -> list[str]:
    return [sys.executable, "-W", "ignore", str(BASELINES / "ray_app.py"), "--apps", apps, *task.flags]


def _fast_flags() -> dict[str, str]:
    """What makes Ray's ingress fast; and ports that no other Ray on this machine has."""
    ports = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT")
    flags = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    flags |= {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1", "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0"}
    flags["RAY_SERVE_HAPROXY_NBTHREAD"] = str(min(4, len(os.sched_getaffinity(0))))
    return flags | {port: str(free_port()) for port in ports}
