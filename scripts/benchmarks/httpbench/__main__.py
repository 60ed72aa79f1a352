"""Our server, others and the limits of both, over HTTP in one run; ours over gRPC as well.

    scripts/bench http [--quick] [--rounds 3] [--seconds N] [--only NAME,NAME] [--plot FILE] [--json]

The same 4 x 1024 MLP in fp32 everywhere, on one thread; one client, wrk, and another for gRPC beside HTTP, h2load. In
every round each server is started, its answers are compared with eager PyTorch, it is measured and stopped. Medians of
all rounds. Baselines are installed into var/baselines the first time. --quick leaves most of the sweeps and the heavy
model out, and begins no round that would end after eight minutes; all of it takes more than an hour. The result is also
in var/bench/http.json, the plot beside.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from models import compiled

from httpbench.bare import Bare
from httpbench.bodies import WIDTH
from httpbench.contenders import BARE
from httpbench.environments import ROOT, say
from httpbench.field import NAMES, contenders, heavy_contenders
from httpbench.found import Found
from httpbench.frame import bench, keep, names_of
from httpbench.heavy import calibrated
from httpbench.loads import BATCH, HEAVY_BATCH, HEAVY_RUNNERS
from httpbench.plot import drawn
from httpbench.report import Result, as_dict, show
from httpbench.rounds import Rounds
from httpbench.targets import targets
from httpbench.verify import Verifier, eager

HEAVY_MS = 20.0
QUICK_S = 470.0


def main() -> None:
    options = _options()
    until = time.monotonic() + QUICK_S if options.quick else math.inf
    with bench(wrk="wrk", h2load="nghttp2-client") as folder:
        result = _measured(folder, options, until)
    keep("http", as_dict(result))
    options.plot.write_text(drawn(result.found))
    say(f"saved {options.plot}")
    print(json.dumps(as_dict(result), indent=1)) if options.json else show(result)


def _measured(folder: Path, options: argparse.Namespace, until: float) -> Result:
    say("compiling the model")
    module = eager()
    subject = compiled(module, (torch.randn(BATCH, WIDTH),), folder, "mlp", stock=False)
    rounds = Rounds(folder, Verifier(module), options.seconds, say)
    made = rounds.run(
        contenders(options.only, folder, quick=options.quick),
        _bare(Bare(subject, BATCH), options),
        options.rounds,
        until,
    )
    heavy = Found() if options.quick or "heavy" not in options.only else _heavy(folder, options)
    return Result(rounds.found, heavy, targets(rounds.found, heavy), made, options.seconds)


def _heavy(folder: Path, options: argparse.Namespace) -> Found:
    """Everybody with every runner busy, and the bare container with as many."""
    say("compiling the heavy model")
    module = calibrated(HEAVY_MS, HEAVY_BATCH)
    subject = compiled(module, (torch.randn(HEAVY_BATCH, WIDTH),), folder, "heavy", stock=False)
    rounds = Rounds(folder, Verifier(module), options.seconds, say)
    bare = _bare(Bare(subject, HEAVY_BATCH, HEAVY_RUNNERS), options)
    rounds.run(heavy_contenders(options.only, folder, module), bare, options.rounds)
    return rounds.found


def _bare(bare: Bare, options: argparse.Namespace) -> Callable[[], float] | None:
    return (lambda: bare.rows_per_second(options.seconds)) if BARE in options.only else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 connections, 8 and 1, and 8 with 64 rows each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=None, help="for each figure (5; with --quick 3)")
    parser.add_argument(
        "--only", type=names_of(NAMES), default=NAMES, metavar="NAME[,NAME]", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--plot", type=Path, default=ROOT / "var" / "bench" / "http.svg")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.seconds = options.seconds or (3.0 if options.quick else 5.0)
    return options


if __name__ == "__main__":
    main()
