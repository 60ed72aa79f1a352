"""Everything at once for a long time, and what was lost of it, and what grows.

    scripts/soak --minutes 60 [--json] [--page]

Starts a Ray cluster of four nodes on this machine and a model whose answers tell their weights. In the first half
clients ask over HTTP and gRPC while weights change, processes are killed, stopped, added, taken away and replaced, and
others send what they should not. In the second half no process is ended, so that what grows can be seen. Every answer
is checked. Ends with status 1 if anything was lost. Ctrl-C ends it early, with a report of what there was until then.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from chaoslab.beside import Loop, going_on
from chaoslab.lab import Lab, compiled, laboratory
from chaoslab.soak.acts import Changing, Faults
from chaoslab.soak.latencies import Latencies
from chaoslab.soak.page import write_page
from chaoslab.soak.processes import Processes
from chaoslab.soak.report import Report, read, report_of, show, write
from chaoslab.soak.rude import RudeClient

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "internals" / "endurance.md"
SAMPLE_S, PROGRESS_S, RUDE_CLIENTS = 10.0, 15.0, 3


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # everything that was started is ended on the way out
    if options.again:
        report = read(options.out)
    else:
        report = _soaked(options)
        write(report, options.out)
        _say(f"written: {options.out}")
    if options.page:
        write_page(report, PAGE)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        show(report)
    sys.exit(report["lost"] > 0)


def _soaked(options: argparse.Namespace) -> Report:
    _say("starting four Ray nodes, compiling the model")
    with compiled(options.megabytes) as package:
        known = {name: getattr(options, name) for name in ("clients", "seed", "keep")}
        with laboratory(package, grpc=True, **known) as lab:
            lab.tell = _say
            return soak(lab, options.minutes * 60, options.seed)


def soak(lab: Lab, seconds: float, seed: int = 0, sample_s: float = SAMPLE_S) -> Report:
    """Storm for half of the time, go on without it for the other half; Ctrl-C ends either."""
    latencies, processes = Latencies(), Processes(lab.nodes)
    lab.judge.timed = latencies.take
    changing, faults, began = Changing(lab), Faults(lab), time.monotonic()
    rude = [RudeClient(lab.judge, lab.nodes.port, lab.grpc_port or 0, seed + number) for number in range(RUDE_CLIENTS)]
    loops: list[Loop] = [
        changing.insist,
        partial(processes.insist, every_s=sample_s),
        *(client.insist for client in rude),
        partial(_tell, lab, began),
    ]
    took = {"asked": seconds, "storm": 0.0, "calm": 0.0}
    with lab.traffic.cuts_expected(), suppress(KeyboardInterrupt), ExitStack() as stack:
        for loop in loops:
            stack.enter_context(going_on(loop))
        parts: dict[str, list[Loop]] = {"storm": [faults.insist], "calm": []}
        for part, begun in parts.items():
            started = time.monotonic()
            try:
                _go_on(lab, part, begun, seconds / 2)
            finally:
                took[part] = time.monotonic() - started
    processes.sample()
    with suppress(KeyboardInterrupt):
        _prove(lab)
    done = {"faults": dict(faults.caused), "changes": dict(lab.outcomes)}
    done["rude"] = {name: sum(client.done[name] for client in rude) for client in rude for name in client.done}
    return report_of(lab.judge.taken(), latencies, processes, took, done)


def _go_on(lab: Lab, part: str, loops: list[Loop], seconds: float) -> None:
    lab.tell(f"{part}: {seconds / 60:.3g} minutes")
    with ExitStack() as stack:
        for loop in loops:
            stack.enter_context(going_on(loop))
        threading.Event().wait(seconds)


def _tell(lab: Lab, began: float, stop: threading.Event) -> None:
    while not stop.wait(PROGRESS_S):
        counts = lab.judge.counts
        figures = f"{counts.requests} requests, {counts.retried} retried, {counts.lost} lost, {dict(lab.outcomes)}"
        lab.tell(f"{(time.monotonic() - began) / 60:.1f} min: {figures}")


def _prove(lab: Lab) -> None:
    """After all that everyone is on one version, and a swap works."""
    try:
        lab.settle()
        if lab.swap() != "committed":
            lab.judge.failed(f"the swap after it all: {lab.notes[-1]}")
        lab.settle()
    except AssertionError as error:  # Lost
        lab.judge.failed(str(error))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=2, help="of each kind: kept, new, prompt, gRPC")
    parser.add_argument("--megabytes", type=float, default=8.0, help="of weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "soak", help="where report.json and the charts go")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.relative_to(ROOT)} from the report, too")
    parser.add_argument("--again", action="store_true", help="show the report that is there; start nothing")
    parser.add_argument("--keep", action="store_true", help="leave Ray's logs behind, and say where")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
