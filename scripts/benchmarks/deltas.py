"""What a delta of an embedding table costs beside the whole file: bytes that are sent, seconds until it is a version;
and how much of a policy in bfloat16 a step of its training changes.

    .venv/bin/python scripts/benchmarks/deltas.py [--megabytes N] [--rounds N] [--json]

Without a cluster: the coordinator's intake alone, on the disk of the temporary folder. Replicas stage whole versions,
whatever was sent. Medians of all rounds; of each share the rows are drawn anew, and every element of them changes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import nn

from aoti_serve import make_delta, save_delta
from aoti_serve.config import WeightsLimits
from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.weights.files.delta import delta_parts
from aoti_serve.weights.files.index import read_index
from aoti_serve.weights.files.merge import merge_weights, parts_in
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, Version

WIDTH, MEGABYTES = 128, 384
SHARES = (0.001, 0.01, 0.1)
RATES, STEPS, LAYERS, SIDE = (1e-6, 1e-5, 1e-4), 3, 4, 2048


class DeltaCost(NamedTuple):
    """Of a share of the rows (1: the whole file): MB sent; seconds to find them, to merge them, until it is stored."""

    share: float
    megabytes: float
    finding: float
    merging: float
    storing: float


class PolicyStep(NamedTuple):
    """A step of AdamW in float32: the share of the elements that it changes in bfloat16, and MB of the delta."""

    rate: float
    share: float
    megabytes: float


def measure_deltas(folder: Path, megabytes: int, rounds: int) -> list[DeltaCost]:
    """Runs for some seconds a round. `folder` must hold several times the table."""
    torch.manual_seed(0)
    before = torch.randn(megabytes * 10**6 // (4 * WIDTH), WIDTH)
    spec = ConstantSpec(name="table", dtype="float32", shape=tuple(before.shape), stride=(WIDTH, 1))
    store = Store(folder / "store", "m", 2)
    intake = Intake(store, "m", Constants(constants=(spec,)), WeightsLimits(), [])
    whole = folder / "whole"
    save_file({"table": before}, whole)
    base = intake.of_file(whole, SwapOptions(), BUILT_IN)
    store.commit(base, 1, None)
    costs = [of_share(folder, before, share, intake, base, rounds) for share in SHARES]
    save_file({"table": before + 1}, whole)
    return [*costs, DeltaCost(1, whole.stat().st_size / 1e6, 0, 0, stored(intake, whole, SwapOptions(), base, rounds))]


def of_share(folder: Path, before: torch.Tensor, share: float, intake: Intake, base: Version, rounds: int) -> DeltaCost:
    after, path = before.clone(), folder / "delta"
    after[torch.randperm(len(after))[: round(share * len(after))]] += 1
    finding = median(lambda: make_delta({"table": before}, {"table": after}), rounds)
    save_delta(make_delta({"table": before}, {"table": after}), path, base.digest)
    merging = median(lambda: merge(folder, path, intake.store, base), rounds)
    storing = stored(intake, path, SwapOptions(delta=True), base, rounds)
    return DeltaCost(share, path.stat().st_size / 1e6, finding, merging, storing)


def merge(folder: Path, path: Path, store: Store, base: Version) -> None:
    with store.open(base) as base_file, path.open("rb") as file:
        held = parts_in(base_file, store.index(base))
        merge_weights(held, delta_parts(parts_in(file, read_index(path)), held, {}), folder / "merged", {})


def stored(intake: Intake, path: Path, options: SwapOptions, base: Version, rounds: int) -> float:
    """Seconds until a file that lies in the store's folder is a version; it is removed again."""

    def store(upload: Path) -> float:
        started = time.perf_counter()
        version = intake.of_file(upload, options, base)
        seconds = time.perf_counter() - started
        intake.store.remove(version)
        intake.store.discard(upload)
        return seconds

    uploads = []
    for _ in range(rounds):
        upload = intake.store.incoming()
        upload.write_bytes(path.read_bytes())
        uploads.append(store(upload))
    return statistics.median(uploads)


def median(work: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def policy_steps(folder: Path, rate: float) -> Iterator[PolicyStep]:
    """Of linear layers as torch initialises them, on random inputs."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(SIDE, SIDE, bias=False), nn.ReLU()) for _ in range(LAYERS)]
    policy = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=rate)
    before = in_bfloat16(policy)
    for _ in range(STEPS):
        optimizer.zero_grad()
        policy(torch.randn(64, SIDE)).square().mean().backward()
        optimizer.step()
        after = in_bfloat16(policy)
        save_delta(make_delta(before, after), folder / "delta", "0" * 64)
        changed = sum(int((before[name] != after[name]).sum()) for name in after)
        yield PolicyStep(rate, changed / (LAYERS * SIDE**2), (folder / "delta").stat().st_size / 1e6)
        before = after


def in_bfloat16(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.to(torch.bfloat16) for name, tensor in module.state_dict().items()}


def policy_table(steps: list[PolicyStep]) -> Table:
    table = Table("learning rate", "changed", "sent, MB", f"of {LAYERS * SIDE**2 * 2 / 1e6:.1f} MB")
    for step in steps:
        part = step.megabytes * 1e6 / (LAYERS * SIDE**2 * 2)
        table.add_row(f"{step.rate:g}", f"{step.share:.1%}", f"{step.megabytes:.1f}", f"{part:.0%}")
    return table


def delta_table(costs: list[DeltaCost]) -> Table:
    table = Table("rows changed", "sent, MB", "of the file", "found, s", "merged, s", "stored, s")
    for cost in costs:
        part, whole = f"{cost.megabytes / costs[-1].megabytes:.2%}", cost.share == 1
        seconds = [f"{number:.2f}" for number in (cost.finding, cost.merging)]
        name = "the whole file" if whole else f"{cost.share:.1%}"
        table.add_row(name, f"{cost.megabytes:.1f}", part, *(["", ""] if whole else seconds), f"{cost.storing:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, Console(stderr=True).status("measuring"):
        costs = measure_deltas(Path(folder), options.megabytes, options.rounds)
        steps = [step for rate in RATES for step in policy_steps(Path(folder), rate)]
    if options.json:
        print(json.dumps({"table": [row._asdict() for row in costs], "policy": [row._asdict() for row in steps]}))
    else:
        Console().print(delta_table(costs), policy_table(steps))


if __name__ == "__main__":
    main()
