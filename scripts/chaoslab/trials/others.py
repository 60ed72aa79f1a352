"""Trials that are no strike at a stage: a candidate whose file rots, and faults at moments that nobody has chosen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from chaoslab.changes import Lost
from chaoslab.kills import one
from chaoslab.lab import Lab
from chaoslab.moments import kill
from chaoslab.storage import STILL_AT_HAND_S, rot
from chaoslab.storm import blow
from chaoslab.trials.candidate import Candidate, nothing_left

SHARES = ({"share": "50%"}, {"shadow": "50%"}, {"share": "30%", "shadow": "30%"})
REPLACED_S = 120.0


def damaged_candidate(lab: Lab) -> None:
    """A replica that comes cannot stage it, so it is withdrawn everywhere."""
    candidate = Candidate(lab)
    if candidate.hold(share="50%") != "candidate":
        raise Lost(f"candidate {candidate.value}: {lab.notes[-1:]}")
    time.sleep(STILL_AT_HAND_S)
    rot(lab, lab.quiet()["candidate"]["version"]["number"])
    lab.strike(lambda: kill(one(lab, "replica")))
    candidate.falls()
    lab.settle()
    nothing_left(lab, candidate)


def storm(lab: Lab, count: int) -> None:
    """The next fault comes when a candidate has been promoted again."""

    def recovered() -> None:
        before = lab.outcomes["promoted"]
        lab.wait_until(lambda: lab.outcomes["promoted"] > before, "candidate that is promoted", REPLACED_S)

    with lab.traffic.cuts_expected(), _trying(lab) as tried:
        blow(lab, count, recovered)
    lab.settle()
    nothing_left(lab, tried[-1])


@contextmanager
def _trying(lab: Lab) -> Iterator[list[Candidate]]:
    """Candidate after candidate in the background, each promoted or withdrawn, as far as the faults let it be."""
    stop = threading.Event()
    tried: list[Candidate] = []

    def insist() -> None:
        while not stop.is_set():
            tried.append(Candidate(lab))
            decided(lab, tried[-1])

    thread = threading.Thread(target=insist)
    thread.start()
    try:
        yield tried
    finally:
        stop.set()
        thread.join()


def decided(lab: Lab, candidate: Candidate) -> None:
    """Out with some share of the requests, then promoted or withdrawn, as far as faults let it be."""
    candidate.hold(**lab.rng.choice(SHARES))
    while candidate.is_out():
        lab.rng.choice([candidate.promote, candidate.promote, candidate.withdraw])()
    lab.judge.heard(lab.quiet())
