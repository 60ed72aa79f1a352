"""The stages of a candidate, each struck: while it is staged, out as a canary or a shadow, promoted, withdrawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from chaoslab.changes import Lost
from chaoslab.lab import Lab
from chaoslab.moments import ABORTING, COMMITTING, STAGING, change_held, reach
from chaoslab.trials.candidate import Candidate, nothing_left
from chaoslab.trials.memory import check_memory
from chaoslab.trials.strikes import Strike

Stage = Callable[[Lab, Strike], None]
HALF = {"share": "50%"}


@contextmanager
def candidate_tried(lab: Lab, strike: Strike) -> Iterator[Candidate]:
    """A candidate, of which nothing is left after."""
    check_memory(lab)
    candidate = Candidate(lab)
    with ExitStack() as cuts:
        if strike.cuts:
            cuts.enter_context(lab.traffic.cuts_expected())
        yield candidate
        lab.settle()
        nothing_left(lab, candidate)


def staging(lab: Lab, strike: Strike) -> None:
    """It becomes a candidate, or it does not; there is nothing in between."""
    with candidate_tried(lab, strike) as candidate:
        struck_during(lab, strike, STAGING, lambda: candidate.hold(**HALF))
        if candidate.is_out():
            candidate.prove_out()
            _ended(candidate, candidate.withdraw, "withdrawn")


def canary(lab: Lab, strike: Strike) -> None:
    """Clients keep their versions, and it is promoted."""
    with _out(lab, strike, **HALF) as candidate:
        _ended(candidate, candidate.promote, "promoted")


def shadow(lab: Lab, strike: Strike) -> None:
    """It answers nobody, and is withdrawn."""
    with _out(lab, strike, shadow="50%") as candidate:
        _ended(candidate, candidate.withdraw, "withdrawn")


def promotion(lab: Lab, strike: Strike) -> None:
    """What was past its commit point is committed; what could not be written changes nothing."""
    with candidate_tried(lab, strike) as candidate:
        _held(candidate, **HALF)
        outcome = struck_during(lab, strike, COMMITTING, candidate.promote)
        if not candidate.is_current() and (outcome == "promoted" or not strike.early):
            raise Lost(f"the promotion of {candidate.value} ended so: {outcome}, {lab.notes[-1:]}")
        if candidate.is_out():
            _ended(candidate, candidate.withdraw, "withdrawn")


def withdrawal(lab: Lab, strike: Strike) -> None:
    """What has begun to go does not come back."""
    with candidate_tried(lab, strike) as candidate:
        _held(candidate, **HALF)
        outcome = struck_during(lab, strike, ABORTING, candidate.withdraw)
        if strike.early and candidate.is_out():
            outcome = candidate.withdraw()
        if candidate.is_out() or candidate.is_current():
            raise Lost(f"the withdrawal of {candidate.value} ended so: {outcome}, {lab.notes[-1:]}")


def struck_during(lab: Lab, strike: Strike, phase: str, change: Callable[[], str]) -> str:
    """Make a change, strike while it is in this phase, wait for recovery, and answer how the change ended."""
    with ExitStack() as undo:
        outcome = make_struck(lab, strike, phase, change, undo)
        lab.settle()
    lab.settle()
    return outcome


def make_struck(lab: Lab, strike: Strike, phase: str, change: Callable[[], str], undo: ExitStack) -> str:
    """Make a change, strike while a stopped replica holds it in this phase, and answer how it ended.

    An early strike comes before it. `undo` ends the strike.
    """
    if strike.early:
        lab.strike(lambda: undo.enter_context(strike.cause(lab)))
        return change()
    with change_held(change, lab.rng.choice(lab.replica_pids())) as under_way:
        reach(lab, phase)
        lab.strike(lambda: undo.enter_context(strike.cause(lab)))
    return under_way.result()


@contextmanager
def _out(lab: Lab, strike: Strike, **exposure: str) -> Iterator[Candidate]:
    with candidate_tried(lab, strike) as candidate:
        _held(candidate, **exposure)
        with candidate.kept():
            candidate.prove_out()
        _struck(lab, strike)
        if not candidate.is_out():
            raise Lost(f"candidate {candidate.value} was withdrawn by itself: {lab.quiet()['last']}")
        with candidate.kept():
            candidate.prove_out()
        yield candidate


def _struck(lab: Lab, strike: Strike) -> None:
    """Strike now, and wait for recovery."""
    with ExitStack() as undo:
        lab.strike(lambda: undo.enter_context(strike.cause(lab)))
        lab.settle()
    lab.settle()


def _held(candidate: Candidate, **exposure: str) -> None:
    _ended(candidate, lambda: candidate.hold(**exposure), "candidate")


def _ended(candidate: Candidate, change: Callable[[], str], well: str) -> None:
    if (outcome := change()) != well:
        raise Lost(f"candidate {candidate.value} should have been {well}: {outcome}")


STAGES: dict[str, Stage] = {
    "candidate-staging": staging,
    "canary": canary,
    "shadow": shadow,
    "promotion": promotion,
    "withdrawal": withdrawal,
}
