"""Swaps of a served model's weights under traffic, against plain Ray Serve that reloads them.

    scripts/bench swap [--megabytes N] [--rounds N] [--json]

Two replicas on this machine, one client that asks all the time, weights read from a local file. Medians of all rounds.
`reload` is what Serve offers by itself: a deployment of the same module in eager PyTorch whose `reconfigure` loads the
file, told by a new `user_config`. The object store's peak is compared with the weights. Then what trying a version
costs those whom the active one answers (`trials.py`, needs h2load). Last, what a delta costs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import numpy as np
import ray
import torch
from deltas import MEGABYTES, delta_table, measure_deltas
from models import Mlp, compiled
from ray import serve
from ray._private.internal_api import node_stats
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from trials import measure_trials, trial_table

from aoti_serve import WeightsClient
from aoti_serve.app import build

WIDTH, REPLICAS = 3200, 2
OUR_PORT, SERVE_PORT = 8017, 8018
TRIAL_S = 4.0
MB_PER_LAYER = (WIDTH * WIDTH + WIDTH) * 4 / 1e6


class Row(NamedTuple):
    """Seconds until all replicas answered anew; the longest request meanwhile, and the longest without a change, ms."""

    what: str
    seconds: float
    longest: float
    undisturbed: float


class Measured(NamedTuple):
    rows: list[Row]
    phases: dict[str, float]  # seconds, medians
    megabytes: float
    memcpy: float  # seconds for the same bytes, one copy
    store_peak: float  # MB in Ray's object store


class Reloading:
    """The module in eager PyTorch, as Serve's documentation has it."""

    def __init__(self, depth: int) -> None:
        self.module = Mlp(WIDTH, depth).eval()
        self.path = ""

    def reconfigure(self, config: dict[str, str]) -> None:
        self.module.load_state_dict(load_file(config["path"]))
        self.path = config["path"]

    async def __call__(self, _: Any) -> str:
        with torch.no_grad():
            self.module(torch.zeros(1, WIDTH))
        return self.path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=205)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    progress = Console(stderr=True)
    with TemporaryDirectory() as folder, TemporaryDirectory() as other, progress.status("measuring"), cluster():
        found = measured(Path(folder), max(1, round(options.megabytes / MB_PER_LAYER)), options.rounds)
        trials = measure_trials(Path(other), options.rounds, TRIAL_S)
    with TemporaryDirectory() as folder, progress.status("measuring deltas"):
        costs = measure_deltas(Path(folder), MEGABYTES, options.rounds)
    if options.json:
        tables: dict[str, list[Any]] = {"rows": found.rows, "trials": trials, "deltas": costs}
        lists = {name: [row._asdict() for row in rows] for name, rows in tables.items()}
        print(json.dumps(found._asdict() | lists))
    else:
        show(found)
        Console().print(trial_table(trials))
        Console().print(delta_table(costs))


def show(found: Measured) -> None:
    table = Table("", "seconds", "longest request, ms", "undisturbed, ms")
    for row in found.rows:
        table.add_row(row.what, f"{row.seconds:.2f}", f"{row.longest:.0f}", f"{row.undisturbed:.0f}")
    console = Console()
    console.print(table)
    phases = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found.phases.items())
    console.print(f"a swap of {found.megabytes:.0f} MB: {phases}; one memcpy of it {found.memcpy:.3f} s")
    share = found.store_peak / found.megabytes
    console.print(f"most that Ray's object store held: {found.store_peak:.0f} MB, {share:.2f} of the weights")


@contextmanager
def cluster() -> Iterator[None]:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_free_objects_period_milliseconds": "0"}  # as `aoti-serve up`
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def measured(folder: Path, depth: int, rounds: int) -> Measured:
    subject = compiled(Mlp(WIDTH, depth), (torch.randn(8, WIDTH),), folder, "large", stock=False)
    files = [folder / "a.safetensors", folder / "b.safetensors"]
    for file, shift in zip(files, (0.0, 1e-3), strict=True):
        save_file({name: tensor + shift for name, tensor in subject.weights.items()}, file)
    model = {
        "name": "large",
        "package": str(folder / "large.pt2"),
        "weights": str(files[0]),
        "store": str(folder / "versions"),
        "weights_roots": [str(folder)],
        "replicas": REPLICAS,
    }
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(http_options={"port": SERVE_PORT}, logging_config={"enable_access_log": False})
    serve.run(
        build({"models": [model], "gateway": {"http_port": OUR_PORT, "grpc_port": None}}), name="ours", route_prefix="/"
    )
    rows, phases, peak = ours(files, rounds)
    serve.delete("ours")
    rows.append(reload(files, depth, rounds))
    serve.delete("plain")
    content = np.frombuffer(files[0].read_bytes(), np.uint8)
    target = content.copy()
    copies = [timed(lambda: np.copyto(target, content)) for _ in range(5)]
    return Measured(rows, phases, content.nbytes / 1e6, statistics.median(copies), peak)


def ours(files: list[Path], rounds: int) -> tuple[list[Row], dict[str, float], float]:
    client = WeightsClient("large", "ours")
    phases: list[dict[str, float]] = []

    def swap(turn: int) -> None:
        last = client.swap_uri(str(files[turn % 2])).last
        assert last is not None
        phases.append(last.phases)

    body, headers = request()
    ask = asking(OUR_PORT, "/v2/models/large/infer", body, headers)
    swap(1)
    with store_peak() as peak:
        rows = [
            changed("swap", ask, swap, rounds),
            changed("rollback", ask, lambda _: client.rollback(), rounds),
        ]
    return rows, {name: statistics.median(entry[name] for entry in phases) for name in phases[0]}, peak[0]


def reload(files: list[Path], depth: int, rounds: int) -> Row:
    def load(turn: int) -> None:
        deploy(files[turn % 2], depth)
        while {ask().text for _ in range(8 * REPLICAS)} != {str(files[turn % 2])}:
            pass

    ask = asking(SERVE_PORT, "/", b"", {})
    deploy(files[1], depth)
    return changed("reload by Serve, eager", ask, load, rounds)


def deploy(file: Path, depth: int) -> None:
    deployment: Any = serve.deployment(Reloading)
    configured = deployment.options(
        num_replicas=REPLICAS, ray_actor_options={"num_cpus": 0}, user_config={"path": str(file)}
    )
    serve.run(configured.bind(depth), name="plain", route_prefix="/")


def changed(what: str, ask: Callable[[], httpx.Response], change: Callable[[int], object], rounds: int) -> Row:
    """One client asks all the time, `change` is made again and again."""
    undisturbed = max(timed(ask) for _ in range(50))
    seconds, longest = [], []
    for turn in range(rounds):
        with asked_all_the_time(ask) as latencies:
            seconds.append(timed(lambda turn=turn: change(turn)))  # type: ignore[misc]
        longest.append(max(latencies))
    return Row(what, statistics.median(seconds), statistics.median(longest) * 1e3, undisturbed * 1e3)


@contextmanager
def asked_all_the_time(ask: Callable[[], httpx.Response]) -> Iterator[list[float]]:
    latencies, stop = [], threading.Event()

    def run() -> None:
        while not stop.is_set():
            latencies.append(timed(ask))

    client = threading.Thread(target=run)
    client.start()
    try:
        yield latencies
    finally:
        stop.set()
        client.join()


@contextmanager
def store_peak() -> Iterator[list[float]]:
    """The most that the object store held meanwhile, in MB."""
    peak, stop = [0.0], threading.Event()
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    place = node["NodeManagerAddress"], node["NodeManagerPort"]

    def run() -> None:
        while not stop.wait(0.01):
            stats: Any = node_stats(*place)  # type: ignore[no-untyped-call]
            peak[0] = max(peak[0], stats.store_stats.object_store_bytes_used / 1e6)

    watcher = threading.Thread(target=run)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def request() -> tuple[bytes, dict[str, str]]:
    data = np.zeros((1, WIDTH), np.float32).tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return header + data, {"Inference-Header-Content-Length": str(len(header))}


def asking(port: int, path: str, body: bytes, headers: dict[str, str]) -> Callable[[], httpx.Response]:
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)
    return lambda: client.post(path, content=body, headers=headers).raise_for_status()


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
