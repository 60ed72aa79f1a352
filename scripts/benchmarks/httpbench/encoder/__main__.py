"""Sentences of mixed lengths in, vectors out: our server and the original library behind two others, in one run.

    scripts/bench http --model encoder [--quick] [--rounds 3] [--seconds N] [--only NAME,NAME] [--json]

all-MiniLM-L6-v2 with its published weights, in fp32, on one thread everywhere; one sentence of 3 to 200 words in each
request, JSON both ways; wrk as the client. `aoti_serve` is what docs/guides/sentences.md serves, `fastapi` is
sentence-transformers in a handler of FastAPI, `ray_serve` the same in `@serve.batch`. In every round each is started,
its vectors are compared with those of the module, it is measured and stopped. Medians of all rounds. The original's
environment is made in var/baselines the first time. The result is also in var/bench/encoder.json.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from encoder import make_model

from aoti_serve.model.export import export_package
from httpbench.encoder.answers import answers, check, expected
from httpbench.encoder.field import NAMES, Contender, contender
from httpbench.encoder.texts import script, sentences
from httpbench.environments import say
from httpbench.found import Found
from httpbench.frame import bench, keep, names_of
from httpbench.loads import ALONE, BUSY, FEW
from httpbench.servers import Failed, running
from httpbench.tables import console, load_table
from httpbench.wrk import scripted

LOADS = (ALONE, FEW, BUSY)
WARM_S = 3.0


def main() -> None:
    options = _options()
    with bench(wrk="wrk") as folder:
        found = _measured(folder, options)
    keep("encoder", _as_dict(found, options))
    print(json.dumps(_as_dict(found, options), indent=1)) if options.json else _show(found)


def _measured(folder: Path, options: argparse.Namespace) -> Found:
    package = folder / "encoder.pt2"
    contenders = [contender(name, package) for name in options.only]
    say("compiling the encoder")
    _compile(package)
    found, wanted = Found(), expected(sentences())
    for turn in range(options.rounds):
        for each in contenders if turn % 2 == 0 else reversed(contenders):
            say(f"round {turn + 1}/{options.rounds}: {each.name}")
            try:
                _measure(each, folder, found, wanted, options.seconds)
            except Failed as failure:
                found.failed(each.name, failure)
                say(f"  {each.name}: {found.failures[each.name]}")
    return found


def _compile(package: Path) -> None:
    module, inputs, shapes = make_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own
        export_package(module, inputs, package, dynamic_shapes=shapes, pad={"input_ids": 0, "attention_mask": "mask"})


def _measure(each: Contender, folder: Path, found: Found, wanted: Any, seconds: float) -> None:
    with running(each.server, folder, lambda url: answers(url, each)) as server:
        check(server.url, each, sentences(), wanted)
        url, lua = server.url + each.path, script(each.body, folder)
        scripted(url, lua, folder, connections=BUSY.connections, seconds=WARM_S)
        for load in LOADS:
            sample = scripted(url, lua, folder, connections=load.connections, seconds=seconds)
            found.add(each.name, load, sample)
            server.check_alive()


def _as_dict(found: Found, options: argparse.Namespace) -> dict[str, Any]:
    medians = {
        name: [load._asdict() | sample._asdict() for load in LOADS if (sample := found.median(name, load))]
        for name in found.names()
    }
    return {"medians": medians, "failures": found.failures, "rounds": options.rounds, "seconds": options.seconds}


def _show(found: Found) -> None:
    out = console()
    for load in reversed(LOADS):
        out.print(load_table(found, load))
    for name, why in found.failures.items():
        out.print(f"{name}: {why}", markup=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["encoder"], default="encoder")
    parser.add_argument("--quick", action="store_true", help="one round of 5 s for each figure")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=None, help="for each figure (10; with --quick 5)")
    parser.add_argument(
        "--only", type=names_of(NAMES), default=NAMES, metavar="NAME[,NAME]", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (5.0 if options.quick else 10.0)
    return options


if __name__ == "__main__":
    main()
