"""How a batch gets to a replica and its answer back: the ways that Ray offers, by size.

    scripts/bench transport [--rounds N] [--json]

One replica that gives back what it gets; one call at a time; milliseconds, medians. `inline` is a Serve call over gRPC,
`actor` one by Ray's actor calls, which move what is large through the object store, `reference` the same with the
batch put there by hand. With Serve's throughput settings, as `aoti-serve up` has them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

SIZES = [2**power for power in (12, 14, 16, 18, 20, 21, 22, 24, 26)]
MESSAGE_BYTES = 2**28  # else gRPC refuses what is measured here
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(MESSAGE_BYTES),
}

import numpy as np  # noqa: E402
import ray  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from ray import serve  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

Way = Callable[[NDArray[np.uint8]], Awaitable[Any]]


class Echo:
    """Gives back what it gets."""

    async def infer(self, arrays: list[Any]) -> list[NDArray[np.uint8]]:
        return [await array if isinstance(array, ray.ObjectRef) else array for array in arrays]


class Caller:
    """Measures where gateways call: in a Serve replica."""

    def __init__(self, replicas: Any) -> None:
        inline, actor = replicas.options(_by_reference=False), replicas.options(_by_reference=True)
        self._ways: dict[str, Way] = {
            "inline": lambda array: inline.infer.remote([array]),
            "actor": lambda array: actor.infer.remote([array]),
            "reference": lambda array: actor.infer.remote([ray.put(array)]),
        }

    async def measure(self, size: int, rounds: int) -> dict[str, float]:
        array = np.zeros(size, np.uint8)
        found: dict[str, list[float]] = {name: [] for name in self._ways}
        for turn in range(rounds + 2):
            for name, way in self._ways.items():
                started = time.perf_counter()
                await way(array)
                if turn >= 2:  # the first ones make connections
                    found[name].append((time.perf_counter() - started) * 1e3)
        return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = asyncio.run(measured(options.rounds))
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


async def measured(rounds: int) -> dict[int, dict[str, float]]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(proxy_location="Disabled")
        echo: Any = serve.deployment(Echo)
        caller: Any = serve.deployment(Caller)
        quiet = {"enable_access_log": False}
        handle: Any = serve.run(caller.options(logging_config=quiet).bind(echo.options(logging_config=quiet).bind()))
        with Console(stderr=True).status("measuring"):
            return {size: await handle.measure.remote(size, rounds) for size in SIZES}
    finally:
        ray.shutdown()


def show(found: dict[int, dict[str, float]]) -> None:
    table = Table("bytes each way", *(f"{name}, ms" for name in next(iter(found.values()))))
    for size, times in found.items():
        best = min(times.values())
        cells = [f"[bold]{value:.2f}[/]" if value == best else f"{value:.2f}" for value in times.values()]
        table.add_row(f"{size:,}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
