"""What trying a version costs those whom the active version answers: acceptance, a canary, a shadow.

    .venv/bin/python scripts/benchmarks/trials.py [--seconds N] [--rounds N] [--only TEXT] [--json]

One replica, 64 connections by h2load (of which each is a client of its own to the canary), rows of 1024 floats for four
layers of 1024. Every round measures all cells; ratios are over the same round's `nothing`, and medians of all rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import ray
import torch
from httpbench.bodies import WIDTH, request, rows_of
from httpbench.h2load import measured as loaded
from httpbench.wrk import Sample
from models import Mlp, compiled
from ray import serve
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from aoti_serve import GoldenRequest, WeightsClient, save_golden
from aoti_serve.app import build

PORT, CONNECTIONS, DEPTH, GOLDEN = 8019, 64, 4, 32
NOTHING = "nothing"


class TrialCost(NamedTuple):
    """Of the active version's answers while this is on: requests/s, ms, and both over those of `nothing`."""

    what: str
    rate: float
    p50: float
    p99: float
    rate_ratio: float
    p99_ratio: float


class Cell(NamedTuple):
    """What is on while clients ask, and how it begins and ends."""

    what: str
    begin: Callable[[], object]
    end: Callable[[], object]


def measure_trials(folder: Path, rounds: int, seconds: float, only: str = "") -> list[TrialCost]:
    """Needs a Ray cluster that was started by the caller. With `only`, the cells that have this in their names."""
    cells = [cell for cell in _cells(*_served(folder)) if cell.what == NOTHING or only in cell.what]
    found: dict[str, list[Sample]] = {cell.what: [] for cell in cells}
    asked = request("v2", rows_of(1))
    try:
        for _ in range(rounds):
            for cell in cells:
                cell.begin()
                url = f"http://127.0.0.1:{PORT}/v2/models/tried/infer"
                found[cell.what].append(loaded(url, asked, folder, connections=CONNECTIONS, seconds=seconds))
                cell.end()
    finally:
        serve.delete("tried")
    return [_cost(what, samples, found[NOTHING]) for what, samples in found.items()]


def trial_table(costs: list[TrialCost]) -> Table:
    table = Table(
        f"{CONNECTIONS} connections, while", "requests/s", "p50, ms", "p99, ms", "rate / nothing", "p99 / nothing"
    )
    for cost in costs:
        ratios = f"{cost.rate_ratio:.2f}", f"{cost.p99_ratio:.2f}"
        table.add_row(cost.what, f"{cost.rate:.0f}", f"{cost.p50:.1f}", f"{cost.p99:.1f}", *ratios)
    return table


def _served(folder: Path) -> tuple[WeightsClient, list[Path], Path]:
    subject = compiled(Mlp(WIDTH, DEPTH), (torch.randn(8, WIDTH),), folder, "tried", stock=False)
    files = [folder / "a.safetensors", folder / "b.safetensors"]
    for file, shift in zip(files, (0.0, 1e-3), strict=True):
        save_file({name: tensor + shift for name, tensor in subject.weights.items()}, file)
    x = torch.randn(8, WIDTH)
    (output,) = subject.package.signature.outputs
    bounds = {output.name: {"cosine": 0.5}}
    expected = {output.name: subject.module(x).detach()}
    save_golden([GoldenRequest(f"{number}", {"x": x}, expected, bounds) for number in range(GOLDEN)], folder / "golden")
    model = {
        "name": "tried",
        "package": str(folder / "tried.pt2"),
        "weights": str(files[0]),
        "weights_roots": [str(folder)],
    }
    model |= {"store": str(folder / "versions")}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    args = {"models": [model], "gateway": {"http_port": PORT, "grpc_port": None}}
    serve.run(build(args), name="tried", route_prefix="/")
    return WeightsClient("tried", "tried"), files, folder / "golden"


def _cells(client: WeightsClient, files: list[Path], golden: Path) -> Iterator[Cell]:
    def candidate(**exposure: Any) -> Callable[[], object]:
        return lambda: client.swap(files[1], candidate=True, **exposure)

    yield Cell(NOTHING, lambda: None, lambda: None)
    yield Cell("a candidate is out", candidate(), client.withdraw)
    yield Cell("a canary of 10 %", candidate(share="10%"), client.withdraw)
    yield Cell("a shadow of 10 %", candidate(shadow="10%"), client.withdraw)
    plain, accepted = _Swapping(client, files, None), _Swapping(client, files, golden)
    yield Cell("swaps, one after the other", plain.begin, plain.end)
    yield Cell(f"the same with {GOLDEN} golden requests", accepted.begin, accepted.end)


class _Swapping:
    """Swaps in a thread until it is told to end."""

    def __init__(self, client: WeightsClient, files: list[Path], golden: Path | None) -> None:
        self._client = client
        self._files = files
        self._options: dict[str, Any] = {"golden": golden} if golden else {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        assert self._thread is not None
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        turn = 1
        while not self._stop.is_set():
            self._client.swap(self._files[turn % 2], **self._options)
            turn += 1


def _cost(what: str, samples: list[Sample], base: list[Sample]) -> TrialCost:
    assert not any(sample.refused or sample.broken for sample in samples), f"{what}: {samples}"
    pairs = list(zip(samples, base, strict=True))
    return TrialCost(
        what,
        statistics.median(sample.rate for sample in samples),
        statistics.median(sample.p50 for sample in samples),
        statistics.median(sample.p99 for sample in samples),
        statistics.median(sample.rate / before.rate for sample, before in pairs),
        statistics.median(sample.p99 / before.p99 for sample, before in pairs),
    )


@contextmanager
def _cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="the cells that have this in their names")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, Console(stderr=True).status("compiling and measuring"), _cluster():
        costs = measure_trials(Path(folder), options.rounds, options.seconds, options.only)
    if options.json:
        print(json.dumps([cost._asdict() for cost in costs]))
    else:
        Console().print(trial_table(costs))


if __name__ == "__main__":
    main()
