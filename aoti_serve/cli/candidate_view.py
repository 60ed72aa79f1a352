"""Views of a candidate for the terminal: how it meets requests, and what may be done with it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from aoti_serve.cli.answers import Uncut, age_text, line, reading_lines, title
from aoti_serve.cli.weights.trial_view import plan_text, rules_text
from aoti_serve.cluster.status import CandidateStatus, WeightsStatus
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.rollout.quantities import shown_share
from aoti_serve.weights.version import BUILT_IN


def candidate_line(candidate: CandidateStatus, now: float) -> Text:
    """The candidate, the shares of the requests that meet it, and since when it is out."""
    out = f"  version {title(candidate.version)}, {_shares(candidate)}, out for {age_text(now - candidate.since)}"
    return line(("candidate", "bold"), out)


def absence_text(status: WeightsStatus) -> str:
    """That no replica holds the previous version, whose buffer a candidate has taken; empty if one does."""
    before = status.previous.number if status.previous else None
    resident = not status.replicas or any(receipt.previous == before for receipt in status.replicas)
    return "" if resident else " (not in memory)" if before == BUILT_IN.number else " (stored, not in memory)"


def candidate_view(status: WeightsStatus, now: float, commands: Sequence[str]) -> RenderableType:
    """What answers and what may answer next. `commands` are the ones that come next."""
    if status.candidate is None:
        return Uncut(line((status.model, "bold"), " has no candidate; this makes one:", _listed(commands)))
    answers = line((status.model, "bold"), f"  version {title(status.current)}, epoch {status.epoch}")
    return Uncut(Group(answers, candidate_line(status.candidate, now), _next(commands)))


def held_view(status: WeightsStatus, candidate: CandidateStatus, seconds: float, commands: Sequence[str]) -> Uncut:
    """The outcome of a swap that has become a candidate."""
    held = f" holds version {title(candidate.version)} as a candidate: {_shares(candidate)}"
    goes_on = f"version {title(status.current)} goes on answering"
    found = line((status.model, "bold green"), f"{held}; {goes_on}  ({seconds:.2f} s)")
    return Uncut(Group(found, *reading_lines(candidate.version), _next(commands)))


def rolling_out_view(
    status: WeightsStatus, candidate: CandidateStatus, plan: RolloutPlan, seconds: float, commands: Sequence[str]
) -> Uncut:
    """A rollout that has begun, what happens next, and the commands that decide before it does."""
    begun = (
        f" has begun to roll out version {title(candidate.version)}; version {title(status.current)} goes on answering"
    )
    decides = f"{plan_text(plan)}; {rules_text(plan)}"
    found = line((status.model, "bold green"), f"{begun}  ({seconds:.2f} s)")
    meanwhile = line("Ctrl-C leaves it to the server; to decide before it does:", _listed(commands))
    return Uncut(Group(found, line(decides), meanwhile))


def withdrawn_view(status: WeightsStatus, seconds: float) -> Uncut:
    """The outcome of a withdrawal."""
    version = f"version {status.last.version}" if status.last else "the candidate"
    answers = f"version {title(status.current)} answers"
    return Uncut(line((status.model, "bold green"), f" has withdrawn {version}; {answers}  ({seconds:.2f} s)"))


def _shares(candidate: CandidateStatus) -> str:
    return f"share {shown_share(candidate.share)}, shadow {shown_share(candidate.shadow)}"


def _next(commands: Sequence[str]) -> Text:
    return line("next:", _listed(commands))


def _listed(commands: Sequence[str]) -> str:
    return "".join(f"\n  {command}" for command in commands)
