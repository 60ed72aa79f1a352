"""Views of a rollout and of the trial that it is decided on: how far it has come, and both versions side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from aoti_serve.cli.answers import line, narrow_table
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.weights.rollout.decisions import RolloutOutcome
from aoti_serve.weights.rollout.judging.rules import STEADY_CALLS
from aoti_serve.weights.rollout.judging.unjudged import LEAST_FOR_P99
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.rollout.quantities import shown_share
from aoti_serve.weights.rollout.state import RolloutPhase, RolloutProgress

Summary = Mapping[str, Any]  # of TrialFigures, or a part of it
STYLE_OF = {
    RolloutOutcome.PROMOTED: "green",
    RolloutOutcome.ABORTED: "red",
    RolloutOutcome.UNDECIDED: "yellow",
    RolloutOutcome.ROLLED_BACK: "red",
}


def trial_views(status: WeightsStatus) -> Iterator[RenderableType]:
    """The rollout that is on, or the last one; and of the trial that is on what was counted, nothing if there is none.

    Figures that the server does not tell are a dash.
    """
    if status.rollout is not None:
        yield from rollout_lines(status.rollout, status.candidate.plan if status.candidate else None)
    if status.trial is not None:
        yield _arms(status.trial, *_titles(status))
        if shadow := status.trial.get("shadow"):
            yield _shadow_line(shadow)
            if outputs := shadow.get("outputs"):
                yield _agreement(outputs)


def unjudged_lines(rollout: RolloutProgress) -> Iterator[Text]:
    """A line with the rules that have not judged a step, or the watch, if there are any."""
    if rollout.unjudged:
        yield line((f"  not judged, for want of requests: {', '.join(map(str, rollout.unjudged))}", "yellow"))


def rules_text(plan: RolloutPlan) -> str:
    """What the rules do, and what the slowest of them waits for."""
    decides = "rules promote it, or withdraw it"
    mute = f"; p99 says nothing before {LEAST_FOR_P99} requests of the active version"
    return decides + (mute if plan.abort_if.p99 is not None else "")


def plan_text(plan: RolloutPlan) -> str:
    """The plan in short: its steps, how long each takes at the least, its shadow, and its watch."""
    shares = ", ".join(map(shown_share, plan.canary))
    steps = (
        f"answers {shares} of the requests, {plan.each:g} s each" if shares else f"answers nothing for {plan.each:g} s"
    )
    shadow = f", shadows {shown_share(plan.shadow)} of the others" if plan.shadow else ""
    short = f", too short for error_rate and p99, which need {STEADY_CALLS} s" if 0 < plan.watch < STEADY_CALLS else ""
    return f"it {steps}{shadow}, and is watched for {plan.watch:g} s{short}"


def rollout_lines(rollout: RolloutProgress, plan: RolloutPlan | None) -> Iterator[Text]:
    """Where it stands, and why its step was extended, if it was."""
    version = "" if rollout.version is None else f"  of version {rollout.version}"
    style = STYLE_OF[rollout.outcome] if rollout.outcome else ""
    yield line(("rollout", "bold"), f"{version}: ", (_standing(rollout, plan), style))
    if rollout.waits_for and rollout.phase is RolloutPhase.TRYING:
        yield line((f"  extended {rollout.extended}x: {rollout.waits_for}", "yellow"))
    yield from unjudged_lines(rollout)


def _standing(rollout: RolloutProgress, plan: RolloutPlan | None) -> str:
    match rollout.phase:
        case RolloutPhase.TRYING:
            return ", ".join(_step(rollout, plan))
        case RolloutPhase.PROMOTING:
            return "all steps have passed; the version is being committed"
        case RolloutPhase.WATCHING:
            return f"promoted, and watched for another {rollout.seconds_left:.0f} s; a breach rolls it back"
        case RolloutPhase.ENDING:
            return (
                f"it has failed and is being ended: {rollout.reason}" if rollout.reason else "it has passed, and ends"
            )
        case RolloutPhase.ENDED:
            return ending_text(rollout)


def ending_text(rollout: RolloutProgress) -> str:
    """How it has ended, and why."""
    outcome = rollout.outcome or "overtaken"
    return ": ".join(filter(None, [outcome, rollout.reason.removeprefix(f"{outcome}: ")]))


def _step(rollout: RolloutProgress, plan: RolloutPlan | None) -> Iterator[str]:
    yield f"step {rollout.step} of {rollout.steps}"
    yield f"share {shown_share(rollout.share)}"
    yield f"{rollout.seconds_left:.0f} s left"
    if rollout.share > 0:
        yield f"{rollout.requests} of {rollout.needed} requests"
    if rollout.shadow > 0:
        asked = rollout.share == 0 or (plan is not None and plan.abort_if.compares_answers)
        yield f"{rollout.pairs}{f' of {rollout.needed}' if asked else ''} compared"


def _titles(status: WeightsStatus) -> tuple[str, str]:
    """Of the arms, which are versions and not roles: after the commit the candidate is what answers."""
    if status.candidate is not None:
        return f"active\n{status.current.number}", f"candidate\n{status.candidate.version.number}"
    return f"before\n{status.previous.number if status.previous else '-'}", f"committed\n{status.current.number}"


def _arms(trial: Summary, *titles: str) -> Table:
    table = narrow_table(Column("trial", vertical="bottom"), *(Column(title, justify="right") for title in titles))
    arms: list[Summary] = [trial.get("active", {}), trial.get("candidate", {})]
    table.add_row("requests", *(_number(arm.get("requests")) for arm in arms))
    for name, figure in (("error rate", "error_rate"), ("non-finite", "non_finite_rate")):
        table.add_row(name, *(_rate(arm.get(figure)) for arm in arms))
    for name, figure in (("p50, ms", "p50_s"), ("p99, ms", "p99_s")):
        table.add_row(name, *(_milliseconds(arm.get(figure)) for arm in arms))
    outputs: list[Summary] = [arm.get("outputs", {}) for arm in arms]
    for output in dict.fromkeys([*outputs[0], *outputs[1]]):
        for figure in ("mean", "spread"):
            table.add_row(f"{output}, {figure}", *(_number(each.get(output, {}).get(figure)) for each in outputs))
    return table


def _shadow_line(shadow: Summary) -> Text:
    names = {"pairs": "compared", "dropped": "dropped", "failed": "failed", "non_finite": "non-finite"}
    return line(
        ("shadow", "bold"), f"  {', '.join(f'{_number(shadow.get(key))} {name}' for key, name in names.items())}"
    )


def _agreement(outputs: Mapping[str, Summary]) -> Table:
    right = ("top-1\nagreement", "\ncosine", "largest\ndifference")
    table = narrow_table(Column("\noutput"), *(Column(name, justify="right") for name in right))
    for name, output in outputs.items():
        figures = [_number(output.get("cosine")), _number(output.get("largest_difference"))]
        table.add_row(name, _rate(output.get("top1_agreement")), *figures)
    return table


def _number(figure: float | None) -> str:
    return "-" if figure is None else str(figure) if isinstance(figure, int) else f"{figure:.4g}"


def _rate(figure: float | None) -> str:
    return "-" if figure is None else shown_share(figure)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f}"
