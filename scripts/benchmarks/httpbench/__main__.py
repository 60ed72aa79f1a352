"""Our server, others and the limits of both, over HTTP in one run.

    scripts/bench http [--quick] [--rounds 3] [--seconds N] [--only NAME,NAME] [--plot FILE] [--json]

The same 4 x 1024 MLP in fp32 everywhere, on one thread; one client, wrk. In every round each server is started, its
answers are compared with eager PyTorch, it is measured and stopped. Medians of all rounds. Baselines are installed into
var/baselines the first time. --quick leaves the sweeps and the heavy model out, and begins no round that would end
after ten minutes; all of it takes about an hour. The result is also in var/bench/http.json, the plot beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from models import compiled

from httpbench import contenders
from httpbench.bare import Bare
from httpbench.bodies import WIDTH
from httpbench.contenders import (
    ALONE,
    BUSY,
    HEAVY,
    HEAVY_BATCH,
    HEAVY_RUNNERS,
    HEAVY_WHOLE,
    PLACEMENTS,
    Contender,
    Endpoint,
    Load,
    Model,
)
from httpbench.environments import ROOT, require_wrk, say
from httpbench.heavy import calibrated
from httpbench.plot import drawn
from httpbench.report import SWEEPS, Result, as_dict, show
from httpbench.rounds import BARE, Found, Rounds
from httpbench.servers import Failed
from httpbench.targets import targets
from httpbench.verify import Verifier, eager

BATCH = 64
HEAVY_MS = 20.0
QUICK_S = 570.0
SWEPT = tuple(dict.fromkeys(load for loads in SWEEPS.values() for load in loads))
NAMES = ("ours-split", "ours-fused", "ray_serve", "ray_serve_fast", "litserve", "pytriton", "fastapi", "bare", "heavy")


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # everything that was started is ended on the way out
    torch.set_num_threads(1)
    try:
        require_wrk()
        with TemporaryDirectory(prefix="httpbench") as folder:
            result = _measured(Path(folder), options)
    except Failed as failure:
        sys.exit(f"error: {failure}")
    _save(result, options.plot)
    print(json.dumps(as_dict(result), indent=1)) if options.json else show(result)


def _measured(folder: Path, options: argparse.Namespace) -> Result:
    loads = (BUSY, ALONE) if options.quick else SWEPT
    until = time.monotonic() + QUICK_S if options.quick else math.inf
    say("compiling the model")
    module = eager()
    subject = compiled(module, (torch.randn(BATCH, WIDTH),), folder, "mlp", stock=False)
    takes_part = [name for name in NAMES if not options.only or name in options.only]
    wanted = _contenders(takes_part, folder, loads, options)
    rounds = Rounds(folder, Verifier(module), options.seconds, say)
    bare = Bare(subject, BATCH)
    in_process = (lambda: bare.rows_per_second(options.seconds)) if BARE in takes_part else None
    made = rounds.run(wanted, in_process, options.rounds, until)
    heavy = Found()
    if "heavy" in takes_part and not options.quick:
        heavy = _heavy(folder, options)
    return Result(rounds.found, heavy, targets(rounds.found, heavy), made, options.seconds)


def _contenders(
    names: Sequence[str], folder: Path, loads: Sequence[Load], options: argparse.Namespace
) -> list[Contender]:
    """Those called so, in this order; a second replica of ours and of Ray's own where sweeps are measured."""
    model = _model(folder, "mlp")
    made: dict[str, Callable[[], Contender]] = {
        "ray_serve": contenders.ray_serve,
        "ray_serve_fast": lambda: contenders.ray_serve_fast(loads),
        "litserve": contenders.litserve,
        "pytriton": lambda: contenders.pytriton([load for load in loads if load.rows <= BATCH], folder),
        "fastapi": lambda: contenders.fastapi(loads),
    }
    found = []
    for name in names:
        if name.startswith("ours-"):
            found += _ours(model, name.removeprefix("ours-"), loads, options.quick)
        elif name in made:
            found.append(made[name]())
    return found


def _ours(model: Model, placement: str, loads: Sequence[Load], quick: bool) -> list[Contender]:
    name = f"ours-{placement}"
    alone = Contender(contenders.ours(model, placement), contenders.our_endpoints(name, loads))
    doubled = f"{name}, 2 replicas"
    server = contenders.ours(model, placement, replicas=2, name=f"{name}-2")
    return [alone] if quick else [alone, Contender(server, (Endpoint(doubled, contenders.V2_PATH, "v2"),))]


def _heavy(folder: Path, options: argparse.Namespace) -> Found:
    """Both placements of ours with every runner busy, and the bare container with as many."""
    say("compiling the heavy model")
    module = calibrated(HEAVY_MS, HEAVY_BATCH)
    subject = compiled(module, (torch.randn(HEAVY_BATCH, WIDTH),), folder, "heavy", stock=False)
    model = _model(folder, "heavy")._replace(num_runners=HEAVY_RUNNERS, max_batch_size=HEAVY_BATCH)
    wanted = [
        Contender(
            contenders.ours(model, placement, name=f"heavy-{placement}"),
            (Endpoint(placement, contenders.V2_PATH, "v2", (HEAVY, HEAVY_WHOLE)),),
        )
        for placement in PLACEMENTS
    ]
    rounds = Rounds(folder, Verifier(module), options.seconds, say)
    bare = Bare(subject, HEAVY_BATCH, HEAVY_RUNNERS)
    rounds.run(wanted, lambda: bare.rows_per_second(options.seconds), options.rounds)
    return rounds.found


def _model(folder: Path, name: str) -> Model:
    return Model(folder / f"{name}.pt2", folder / f"{name}.safetensors")


def _save(result: Result, plot: Path) -> None:
    folder = ROOT / "var" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "http.json").write_text(json.dumps(as_dict(result), indent=1))
    plot.write_text(drawn(result.found))
    say(f"saved {folder / 'http.json'} and {plot}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 connections and 1, nothing else")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=None, help="for each figure (5; with --quick 2)")
    parser.add_argument("--only", type=_names, metavar="NAME[,NAME]", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--plot", type=Path, default=ROOT / "var" / "bench" / "http.svg")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.seconds = options.seconds or (2.0 if options.quick else 5.0)
    return options


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no contender is called {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
