"""What a change of 1% costs in a store at a URI, in parts and as one object: bytes put, and seconds of the processor.

    .venv/bin/python scripts/benchmarks/uri_store.py [--megabytes N] [--rounds N] [--uri URI] [--json]

Without a cluster. The URI is in the memory of the process unless another is given. The seconds are those of the
processor, for digests and copies: what a network adds, it adds to the bytes and the objects. Medians of all rounds. The
rows that change are drawn anew; a "stretch" is 1% of them one behind the other. Each layout has a store of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from aoti_serve.weights.store.catalog import READ_BYTES
from aoti_serve.weights.store.objects import lending
from aoti_serve.weights.store.objects.remote import Remote
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import Version

WIDTH, TENSORS, SHARE = 64, 100, 0.01  # rows of 256 bytes
CHANGES = ("1% of the rows, at random", "1% of the rows, a stretch", "all")
WHOLE = 2**62  # so that every version is one object
Table = NDArray[np.float32]


class UriCost(NamedTuple):
    """Of one change of one layout: MB and objects put, seconds of the processor to add and to read it."""

    layout: str
    change: str
    megabytes: float
    objects: float
    adding: float
    reading: float


def measure(folder: Path, uri: str, megabytes: int, rounds: int) -> list[UriCost]:
    costs = []
    for layout, least in (("one object", WHOLE), ("parts", lending.LEAST_PARTED_BYTES)):
        lending.LEAST_PARTED_BYTES = least
        store = Store(f"{uri}/{uuid4().hex}", "m", 2)
        values = np.random.default_rng(0).standard_normal((megabytes * 10**6 // (4 * WIDTH), WIDTH), np.float32)
        before = add(store, folder, values)
        store.commit(before, 1, None)
        for change in CHANGES:
            found = [of_change(store, folder, changed(values, change, round_)) for round_ in range(rounds)]
            costs.append(UriCost(layout, change, *(statistics.median(each) for each in zip(*found, strict=True))))
    return costs


def changed(values: Table, change: str, seed: int) -> Table:
    after, rows, first = values.copy(), round(len(values) * SHARE), 1000 * (seed + 1)
    at_random = np.random.default_rng(seed).permutation(len(after))[:rows]
    chosen: Any = {"all": slice(None), CHANGES[0]: at_random, CHANGES[1]: slice(first, first + rows)}[change]
    after[chosen] += 1 + seed
    return after


def add(store: Store, folder: Path, values: Table) -> Version:
    path = folder / "weights"
    save_file({f"{at:03d}": part for at, part in enumerate(np.array_split(values, TENSORS))}, path)
    return store.add(path, "")


def of_change(store: Store, folder: Path, values: Table) -> tuple[float, float, float, float]:
    place = store._place
    assert isinstance(place, Remote)
    before = place.listed()
    started = time.process_time()
    version = add(store, folder, values)
    adding = time.process_time() - started
    new = {name: size for name, size in place.listed().items() if name not in before}
    reading = seconds(lambda: read(store, version))
    store.remove(version)
    return sum(new.values()) / 1e6, len(new), adding, reading


def read(store: Store, version: Version) -> None:
    with store.open(version) as file:
        while file.read(READ_BYTES):
            pass


def seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uri", default="memory://benchmark")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        costs = measure(Path(folder), asked.uri, asked.megabytes, asked.rounds)
    if asked.json:
        print(json.dumps([cost._asdict() for cost in costs]))
        return
    for cost in costs:
        print(f"{cost.layout:12}{cost.change:28}{cost.megabytes:8.1f} MB in {cost.objects:3.0f} objects", end="")
        print(f"   add {cost.adding:.2f} s   read {cost.reading:.2f} s")


if __name__ == "__main__":
    main()
