"""The command: see the package."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

import scale
from scale import simulated, sockets, transfer
from scale.plot import drawn
from scale.report import tables, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=scale.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # a coordinator that is replaced is looked for
    progress = Console(stderr=True)
    progress.print("swaps in simulated time")
    in_time = [simulated.measure(size) for size in simulated.SIZES]
    progress.print("swaps over real connections")
    connected = [asyncio.run(sockets.measure_sockets(size)) for size in sockets.SIZES]
    progress.print("transfers in simulated time")
    transfers = transfer.measure_transfer()
    met = targets(in_time, connected)
    if asked.plot:
        asked.plot.write_text(drawn(in_time, connected))
    if asked.json:
        found: dict[str, list[Any]] = {"simulated": in_time, "sockets": connected, "transfer": transfers}
        print(json.dumps({name: [asdict(run) for run in runs] for name, runs in found.items()} | {"targets": met}))
        return
    out = Console()
    for table in tables(in_time, connected, transfers):
        out.print(table)
    for target, is_met in met.items():
        out.print(f"{'met' if is_met else 'MISSED'}: {target}")


main()
