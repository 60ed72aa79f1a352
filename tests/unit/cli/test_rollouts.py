"""What an operator types and reads of rollouts, against a tiny server."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from aoti_serve.cli import live
from aoti_serve.cli.render import status_view, swap_view
from aoti_serve.cli.weights import rollouts
from aoti_serve.cli.weights.trial_view import plan_text
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.signature.tensors import TensorSpec
from aoti_serve.weights.rollout.counts import TrialCounts
from aoti_serve.weights.rollout.decisions import RolloutOutcome
from aoti_serve.weights.rollout.figures import TrialFigures
from aoti_serve.weights.rollout.judging.unjudged import Shortage, Unjudged
from aoti_serve.weights.rollout.plan import AbortRules, RolloutPlan
from aoti_serve.weights.rollout.state import RolloutPhase
from tests.unit.cli.played import (
    NOW,
    Break,
    Played,
    Reply,
    Stay,
    as_json,
    candidate,
    ended,
    rollout_progress,
    version,
    weights_status,
)
from tests.unit.cli.test_render import drawn, row_of
from tests.unit.cli.test_weights import WEIGHTS, file, interrupt, played, run, says, started, token

__all__ = ["file", "played", "token"]  # fixtures
PLAN = RolloutPlan(shadow=0.1, abort_if=AbortRules(top1_agreement=0.9))
BEGUN = as_json(weights_status(candidate=candidate(plan=PLAN), last=ended(outcome="candidate", version=4)))
WRITTEN = "rollout:\n  canary: [10%, 50%]\n  each: 30s\n"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(WRITTEN)
    return path


def rolling(**facts: Any) -> Any:
    """A status while the candidate is out."""
    return BEGUN | {"rollout": as_json(weights_status(rollout=rollout_progress(**facts)))["rollout"]}


def over(current: int = 3, **facts: Any) -> Any:
    """A status when the rollout has ended, and this version answers."""
    progress = rollout_progress(**({"phase": RolloutPhase.ENDED} | facts))
    return as_json(weights_status(current=version(current), rollout=progress, last=ended(version=current)))


PASSED = over(4, outcome=RolloutOutcome.PROMOTED)
FAILED = over(outcome=RolloutOutcome.ABORTED, reason="top1_agreement: too few")


def test_a_swap_with_a_plan_says_what_happens_next_and_ends_when_its_version_answers(
    played: Played, file: str, plan: Path
) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN)
    played.streams.append([rolling(step=1), rolling(step=1, seconds_left=9.0), rolling(), PASSED, Stay()])
    result = run("swap", "m", file, "--rollout", str(plan))
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert first.startswith("m has begun to roll out version 4 (step 400); version 3 (step 300) goes on answering  (")
    assert rest[:4] == [
        "it answers 5%, 25%, 50% of the requests, 60 s each, shadows 10% of the others, and is watched for 120 s; "
        "rules promote it, or withdraw it; "
        "p99 says nothing before 619 requests of the active version",
        "Ctrl-C leaves it to the server; to decide before it does:",
        f"  aoti-serve promote m --url {played.url}",
        f"  aoti-serve withdraw m --url {played.url}",
    ]
    assert rest[4].startswith("m answers with version 4 (step 400)  (")
    told = [f"rollout  of version 4: step {step} of 3, share 25%, 41 s left" for step in (1, 2)]
    assert [line.partition(", 120")[0] for line in result.stderr.splitlines()] == told
    asked = played.asked_for(WEIGHTS)[-1].query
    assert json.loads(asked["rollout"]) == {"canary": [0.1, 0.5], "each": 30.0}


def test_a_rollout_that_ends_otherwise_fails_the_swap_with_its_reason(played: Played, file: str) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN)
    played.streams += [[rolling(), FAILED], [rolling(), FAILED]]
    result, as_facts = run("swap", "m", file), run("swap", "m", file, "--json")
    outcome = "aborted: top1_agreement: too few"
    said = f"version 4 has not passed its rollout ({outcome}); version 3 answers"
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, f"error: {said}")
    assert (as_facts.exit_code, as_facts.stderr) == (1, "")
    facts = {"version": 4, "outcome": outcome, "current": 3}
    assert json.loads(as_facts.stdout) == {"error": said, "type": "RolloutFailed", "facts": facts}


def test_with_json_a_swap_with_a_rollout_prints_the_status_at_its_end(played: Played, file: str) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN)
    played.streams.append([rolling(), PASSED])
    result = run("swap", "m", file, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == PASSED


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        (over(4, reason="its candidate was promoted"), 0, ""),  # by somebody
        (over(reason="its candidate was withdrawn"), 1, "(overtaken: its candidate was withdrawn)"),
        (over(version=7, outcome=RolloutOutcome.PROMOTED), 1, "(how it has ended is not known)"),
        (as_json(weights_status()), 1, "(how it has ended is not known)"),
        (as_json(weights_status(current=version(4))), 0, ""),
    ],
)
def test_whether_the_version_answers_decides_where_the_rules_have_not(
    played: Played, file: str, end: Any, status: int, said: str
) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN)
    before = rolling(version=2, phase=RolloutPhase.WATCHING)  # a watch that ends at the next look
    played.streams.append([before, end])
    result = run("swap", "m", file)
    assert result.exit_code == status
    assert said in result.stderr


def test_a_rollout_is_followed_through_its_watch_and_its_end(played: Played, file: str) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN)
    watched = over(4, phase=RolloutPhase.WATCHING)
    ending = over(4, phase=RolloutPhase.ENDING, reason="p99: too slow")
    back = over(outcome=RolloutOutcome.ROLLED_BACK, reason="p99: too slow")
    played.streams.append([rolling(extended=1, waits_for="20 requests"), watched, ending, back])
    result = run("swap", "m", file)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == [
        "  extended 1x: 20 requests",
        "rollout  of version 4: promoted, and watched for another 41 s; a breach rolls it back",
        "rollout  of version 4: it has failed and is being ended: p99: too slow",
        "error: version 4 has not passed its rollout (rolled back: p99: too slow); version 3 answers",
    ]


def test_on_a_terminal_the_steps_and_both_versions_are_drawn(
    played: Played, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=100, soft_wrap=True, markup=False, color_system=None)
    monkeypatch.setattr(rollouts, "progress_out", terminal)
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN)
    step = rolling() | {"trial": counted().summary()}
    played.streams.append([step | {"rollout": step["rollout"] | {"phase": RolloutPhase.ENDED}}])
    assert run("swap", "m", file).exit_code == 1
    assert "\nrequests" in written.getvalue()


def test_a_broken_connection_is_made_again(played: Played, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WATCH_RETRY_S", 0.01)
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN)
    played.streams += [[rolling(), Break()], [Break()], [PASSED]]
    result = run("swap", "m", file)
    assert result.exit_code == 0
    _, *troubles = result.stderr.splitlines()
    assert all(trouble.endswith("; trying again") for trouble in troubles)
    assert 1 <= len(troubles) <= 2


def test_a_server_that_stays_away_ends_the_wait(played: Played, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WATCH_RETRY_S", 0.01)
    monkeypatch.setattr(rollouts, "PATIENCE_S", 0.1)
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN)
    played.replies[f"GET {WEIGHTS}/events"] = Reply({"error": "gone"}, 503)
    result = run("swap", "m", file)
    assert result.exit_code == 1
    unknown = "what becomes of version 4 is not known: see `aoti-serve status m"
    assert result.stderr.splitlines()[-1].startswith(f"error: gone; {unknown}")


def test_ctrl_c_leaves_the_rollout_to_the_server(played: Played, file: str) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN)
    with started("swap", "m", file) as process:
        _, said = interrupt(process, lambda: played.asked_for(f"{WEIGHTS}/events"))
    goes_on = "interrupted: the rollout of version 4 goes on on the server; see"
    assert said == f"{goes_on} `aoti-serve status m --url {played.url}`\n"
    assert process.returncode == 130


def test_who_does_not_wait_follows_it_later(played: Played, file: str) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN, 202)
    assert "follow it with `aoti-serve status m" in run("swap", "m", file, "--no-wait").stdout
    assert played.asked_for(f"{WEIGHTS}/events") == []


def test_so_does_a_swap_where_the_configuration_has_a_rollout(played: Played, file: str) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(BEGUN)
    played.streams.append([PASSED])
    assert run("swap", "m", file).stdout.startswith("m has begun to roll out version 4 (step 400); ")
    assert "rollout" not in played.asked_for(WEIGHTS)[-1].query


def test_a_plan_without_a_canary_answers_nothing(played: Played, file: str) -> None:
    shadow = candidate(plan=RolloutPlan(canary=(), shadow=0.2, each=30.0))
    played.replies[f"POST {WEIGHTS}"] = Reply(as_json(weights_status(candidate=shadow)))
    played.streams.append([PASSED])
    assert "\nit answers nothing for 30 s, shadows 20% of the others, and" in run("swap", "m", file).stdout


def test_no_rollout_commits_at_once(played: Played, file: str) -> None:
    assert run("swap", "m", file, "--no-rollout").stdout.startswith("m answers with version 3 (step 300)  (")
    assert played.asked_for(WEIGHTS)[-1].query["rollout"] == "false"
    run("swap", "m", "s3://b/x.safetensors", "--no-rollout")
    assert json.loads(played.asked_for(WEIGHTS)[-1].body)["rollout"] is False


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (b"canaries: [5%]", "canaries: there is no such key"),
        (b"abort_if: {p99: fast}", "abort_if.p99: 'fast' is no factor: write 2x or 2.0"),
        (b"each: [", "while parsing a flow"),
        (b"\xff\xfe\xfa", "is no text: --rollout takes a file with a plan"),
        (None, "No such file or directory: --rollout takes a file with a plan"),
    ],
)
def test_a_plan_that_is_none_is_refused_before_anything_is_sent(
    played: Played, file: str, plan: Path, written: bytes | None, reason: str
) -> None:
    plan.unlink() if written is None else plan.write_bytes(written)
    said = run("swap", "m", file, "--rollout", str(plan)).stderr
    assert said.startswith(f"error: {plan}")
    assert "<unicode string>" not in said
    assert reason in said
    assert played.asked == []


def test_options_that_exclude_each_other_are_called_as_they_are_typed(played: Played, file: str, plan: Path) -> None:
    assert "leave out --rollout" in says("swap", "m", file, "--rollout", str(plan), "--no-rollout")
    assert "itself: leave out --candidate\n" in says("swap", "m", file, "--rollout", str(plan), "--candidate")
    assert played.asked == []


def test_the_candidate_of_a_rollout_is_followed_and_not_exposed(played: Played) -> None:
    played.replies[f"GET {WEIGHTS}"] = Reply(BEGUN)
    shown = run("candidate", "m").stdout
    assert "--watch" in shown
    assert "--share" not in shown


def lines_of(**facts: Any) -> list[str]:
    """The status in a pipe, without the first line and the receipts."""
    text = drawn(status_view(weights_status(**facts), NOW), terminal=False)
    lines = [line.rstrip() for line in text.splitlines()]
    return lines[1 : next(number for number, line in enumerate(lines) if line.startswith("replica")) - 1]


def test_a_step_says_how_far_it_is_and_why_it_was_extended() -> None:
    out = candidate(plan=PLAN)
    (_, step) = lines_of(candidate=out, rollout=rollout_progress())
    where = "rollout  of version 4: step 2 of 3, share 25%, 41 s left, 120 of 200 requests, 30 of 200 compared"
    assert step == where
    waits = rollout_progress(extended=2, waits_for="120 requests of the candidate of 200")
    assert lines_of(candidate=out, rollout=waits)[1:] == [
        where,
        "  extended 2x: 120 requests of the candidate of 200",
    ]


def test_rules_that_could_not_judge_are_named() -> None:
    short = Shortage(counted="requests of the active version", had=120, needed=619)
    rules = tuple(Unjudged(rule="p99", during=during, shortage=short) for during in ("step 1", "the watch"))
    shown = lines_of(rollout=rollout_progress(outcome=RolloutOutcome.PROMOTED, unjudged=rules))
    assert shown[-1] == (
        "  not judged, for want of requests: p99 in step 1 (120 of 619 requests of the active version), "
        "p99 in the watch (120 of 619 requests of the active version)"
    )
    ended = rollout_progress(phase=RolloutPhase.ENDED, outcome=RolloutOutcome.PROMOTED, unjudged=rules, version=3)
    assert shown[-1] in drawn(swap_view(weights_status(rollout=ended), 1.0), terminal=False)
    of_another = ended.model_copy(update={"version": 2})
    assert "not judged" not in drawn(swap_view(weights_status(rollout=of_another), 1.0))


def test_compared_requests_are_needed_only_where_a_rule_asks_for_them() -> None:
    out = candidate(plan=RolloutPlan(shadow=0.1))
    assert lines_of(candidate=out, rollout=rollout_progress())[1].endswith("120 of 200 requests, 30 compared")
    shadowed = rollout_progress(share=0.0)
    assert lines_of(candidate=out, rollout=shadowed)[1].endswith("share 0%, 41 s left, 30 of 200 compared")
    assert lines_of(candidate=out, rollout=rollout_progress(shadow=0.0))[1].endswith("120 of 200 requests")


@pytest.mark.parametrize(
    ("facts", "standing"),
    [
        ({"phase": RolloutPhase.PROMOTING}, "all steps have passed; the version is being committed"),
        ({"phase": RolloutPhase.ENDING, "reason": "p99: too slow"}, "it has failed and is being ended: p99: too slow"),
        ({"phase": RolloutPhase.ENDING}, "it has passed, and ends"),
        ({"phase": RolloutPhase.WATCHING}, "promoted, and watched for another 41 s; a breach rolls it back"),
        ({"outcome": RolloutOutcome.PROMOTED}, "promoted"),
        ({"outcome": RolloutOutcome.ABORTED, "reason": "p99: too slow"}, "aborted: p99: too slow"),
        ({"outcome": RolloutOutcome.UNDECIDED, "reason": "undecided: 0 requests"}, "undecided: 0 requests"),
        ({"outcome": RolloutOutcome.ROLLED_BACK, "reason": "error_rate: all"}, "rolled back: error_rate: all"),
        ({"reason": "another version was committed"}, "overtaken: another version was committed"),
    ],
)
def test_what_becomes_of_a_rollout(facts: dict[str, Any], standing: str) -> None:
    rollout = rollout_progress(**({"phase": RolloutPhase.ENDED} | facts))
    assert lines_of(rollout=rollout) == [f"rollout  of version 4: {standing}"]


def counted() -> TrialFigures:
    """Of an active version that answers well, and a candidate that does not."""
    counts = TrialCounts([TensorSpec(name="logits", dtype="float32", shape=(2,))])
    good, bad = np.array([[1.0, 3.0]], np.float32), np.array([[3.0, 1.0]], np.float32)
    for _ in range(99):
        counts.active.note(0.004)
        counts.active.note_outputs([good])
    counts.candidate.note(0.5, failed=True)
    for pair in (good, good, bad):
        counts.candidate.note(0.004)
        counts.candidate.note_outputs([pair])
        counts.shadow.note_pair([good], [pair])
    counts.shadow.note_dropped()
    return counts.figures()


def trial_status(figures: TrialFigures, **facts: Any) -> WeightsStatus:
    return weights_status(trial=figures.summary(), **facts)


@pytest.mark.parametrize("terminal", [True, False])
def test_both_versions_stand_side_by_side(terminal: bool) -> None:
    text = drawn(status_view(trial_status(counted(), candidate=candidate()), NOW), terminal=terminal)
    assert row_of(text, "trial") == ["trial", "3", "4"]
    rows = {
        "requests": ["99", "4"],
        "error rate": ["0%", "25%"],
        "non-finite": ["0%", "0%"],
        "p50, ms": ["4.2", "4.2"],
        "p99, ms": ["4.2", "531.2"],
        "logits, mean": ["2", "2"],
        "logits, spread": ["1", "1"],
    }
    assert {name: row_of(text, name)[-2:] for name in rows} == rows
    assert "shadow  3 compared, 1 dropped, 0 failed, 0 non-finite\n" in text
    assert row_of(text, "logits  ") == ["logits", "66.7%", "0.8667", "2"]


def test_after_the_commit_the_arms_stay_with_their_versions() -> None:
    watched = rollout_progress(phase=RolloutPhase.WATCHING, version=3)
    text = drawn(status_view(trial_status(counted(), rollout=watched), NOW))
    assert text.splitlines()[2].split() == ["before", "committed"]
    assert row_of(text, "trial") == ["trial", "2", "3"]


def test_without_requests_there_are_dashes_and_without_shadows_nothing_of_them() -> None:
    text = drawn(status_view(trial_status(TrialFigures(), candidate=candidate()), NOW))
    assert row_of(text, "requests") == ["requests", "0", "0"]
    assert row_of(text, "p99, ms")[-2:] == ["-", "-"]
    assert "compared" not in text
    assert "shadow  " not in text


def test_the_status_is_shown_as_the_server_says_it(played: Played) -> None:
    status = as_json(trial_status(counted(), candidate=candidate(plan=PLAN), rollout=rollout_progress()))
    played.replies[f"GET {WEIGHTS}"] = Reply(status)
    shown = run("status", "m").stdout
    assert "\nrollout  of version 4: step 2 of 3, share 25%, " in shown
    assert "\np99, ms " in shown
    assert json.loads(run("status", "m", "--json").stdout) == [status]


def test_a_watch_that_is_too_short_to_judge_says_so() -> None:
    assert plan_text(RolloutPlan(watch=3)).endswith(
        "is watched for 3 s, too short for error_rate and p99, which need 5 s"
    )
    for long_enough in (0, 5, 120):
        assert plan_text(RolloutPlan(watch=long_enough)).endswith(f"is watched for {long_enough} s")
