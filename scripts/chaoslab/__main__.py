"""Faults against a real cluster under traffic, and what was lost.

    scripts/chaos [--trials] [--only NAME ...] [--swaps 500] [--seed 0] [--json]

Starts a Ray cluster of four nodes on this machine, serves a model whose answers tell their weights, and swaps
them under traffic while processes are killed and frozen. Ends with status 1 if a promise was broken; takes about 15
minutes. With --trials all of that while a candidate is out, and at each step of a rollout: over an hour. A NAME may
hold wildcards: 'coordinator@*'.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from fnmatch import fnmatch

from chaoslab.campaign import STAGES, Fault, Finding, faults, found, trials
from chaoslab.lab import Lab, compiled, laboratory
from chaoslab.report import as_json, show
from chaoslab.trials.strikes import STRIKES


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # everything that was started is ended on the way out
    wanted = _chosen(options)
    findings: list[Finding] = []
    with compiled(options.megabytes) as package:
        while len(findings) < len(wanted):
            _say("starting four Ray nodes, compiling the model" if not findings else "starting four Ray nodes")
            with laboratory(package, **{name: getattr(options, name) for name in ("clients", "seed", "keep")}) as lab:
                lab.tell = _say
                _until_one_is_not_survived(lab, wanted, findings)
    if options.json:
        print(as_json(findings))
    else:
        show(findings)
    sys.exit(any(finding.lost for finding in findings))


def _until_one_is_not_survived(lab: Lab, wanted: list[Fault], findings: list[Finding]) -> None:
    """What comes after a broken promise is tried on a cluster of its own."""
    for fault in wanted[len(findings) :]:
        _say(f"{len(findings) + 1}/{len(wanted)} {fault.name}: {fault.done}")
        findings.append(found(lab, fault))
        _say(_line(findings[-1]))
        if findings[-1].problem:
            return


def _chosen(options: argparse.Namespace) -> list[Fault]:
    if not options.only:
        return trials() if options.trials else faults(options.swaps)
    known = [*faults(options.swaps), *trials()]
    chosen = [fault for fault in known if any(fnmatch(fault.name, name) for name in options.only)]
    if not chosen:
        sys.exit(f"no fault is called {', '.join(options.only)}; --help names them")
    return chosen


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(fault.name for fault in faults(0))
    at = f"STRIKE@STAGE, of the strikes {', '.join(STRIKES)} and the stages {', '.join(STAGES)}"
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one of {names}; or {at}")
    parser.add_argument("--trials", action="store_true", help="of candidates and rollouts, instead of swaps")
    parser.add_argument("--swaps", type=int, default=500)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=8.0, help="of weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="leave Ray's logs behind, and say where")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _line(finding: Finding) -> str:
    counts = finding.counts
    notes = "".join(f"\n    {note}" for note in [*finding.notes[:5], *counts.cuts, *list(counts.evidence)[:5]])
    figures = f"{counts.requests} requests, {counts.retried} retried, {counts.lost} lost, {finding.outcomes}"
    return f"  {figures} {finding.problem or 'ok'}{notes}"


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
