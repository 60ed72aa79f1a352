"""What the link from a gateway to a replica costs: round trips, bytes per second, CPU at both ends.

    scripts/bench link [--rounds N] [--json]

Two processes on this machine, as a gateway and a replica are, one batch at a time; the replica's end gives back what it
gets, without a model. Over a Unix socket, as on one node, and over TCP, as across nodes; with asyncio's own event loop
and with uvloop, which Serve's processes use. CPU is that of the whole process, from batch to batch.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product

import numpy as np
from httpbench.tables import console, plain_table, target_table
from httpbench.targets import Target
from link_ends import LARGE, LOOPS, NODES, Cost, measured, replica


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5000, help="batches of 4 KB; large ones are a hundredth of that")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    memcpy = copied()
    costs: dict[str, Cost] = {}
    for (loop, run), (way, node) in product(LOOPS.items(), NODES.items()):
        with replica(loop) as address:
            costs[f"{loop}, {way}"] = run(measured(address, node, options.rounds))
    made = targets(costs, memcpy)
    if options.json:
        found = {name: cost._asdict() for name, cost in costs.items()}
        print(
            json.dumps({"memcpy": memcpy, "costs": found, "targets": [target.as_dict() for target in made]}, indent=1)
        )
    else:
        show(costs, memcpy, made)


def targets(costs: dict[str, Cost], memcpy: float) -> list[Target]:
    """Of what one node uses."""
    cost = costs["uvloop, Unix"]
    return [
        Target("4 KB there and back, median, µs", 150, cost.median, at_most=True),
        Target("64 MB there, of memcpy", 0.6, cost.there / memcpy),
        Target("64 MB back, of memcpy", 0.6, cost.back / memcpy),
        Target("CPU of the gateway's end, µs for a batch", 60, cost.gateway, at_most=True),
        Target("CPU of the replica's end, µs for a batch", 60, cost.replica, at_most=True),
    ]


def show(costs: dict[str, Cost], memcpy: float, made: list[Target]) -> None:
    columns = ("4 KB, median µs", "p99 µs", "64 MB there, GB/s", "back, GB/s", "CPU gateway, µs", "CPU replica, µs")
    table = plain_table(f"one link, one batch at a time; memcpy of 64 MB: {memcpy:.1f} GB/s", columns)
    for name, cost in costs.items():
        table.add_row(name, *(f"{figure:,.1f}" for figure in cost))
    console().print(table)
    console().print(target_table(made))


def copied() -> float:
    """GB/s of one core that copies 64 MB, pages in place; the best, so that noise flatters no link."""
    source, target = np.ones(LARGE, np.uint8), np.zeros(LARGE, np.uint8)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - began)
    return LARGE / min(times) / 1e9


if __name__ == "__main__":
    main()
