"""What the commands draw, and that nothing of what the server says can harm a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from aoti_serve.cli.answers import safe, value_of
from aoti_serve.cli.render import spaced, status_view, swap_bars_view, swap_view, versions_view
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import ServerRefused
from aoti_serve.signature.name_rules import NameRules
from aoti_serve.weights.audit import AttemptOutcome
from aoti_serve.weights.sources.follow import FollowStatus
from aoti_serve.weights.store.usage import StoredVersion
from aoti_serve.weights.version import BUILT_IN, GoldenFile, MergedAdapter, Rounding, Version
from tests.unit.cli.played import (
    NOW,
    as_json,
    candidate,
    ended,
    receipt,
    stored,
    swap_progress,
    version,
    weights_status,
)

NASTY = "[red]\x1b[2J\x9b1m\x07\u202e\r\nnext"


def drawn(renderable: RenderableType, width: int = 100, terminal: bool = True) -> str:
    """The text of a screen; with the settings of the commands' own console."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, record=True, force_terminal=terminal, soft_wrap=True, markup=False, highlight=False
    )
    console.print(renderable)
    return console.export_text()


def row_of(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line.split()


def test_the_status_says_what_answers_and_what_is_behind_it() -> None:
    text = drawn(status_view(weights_status(), NOW))
    assert text.splitlines()[0] == "m  version 3 (step 300), previous 2 (step 200), epoch 7"
    assert "last" not in text
    assert "swap" not in text


def test_labels_stand_in_the_status_and_at_the_versions_that_they_name() -> None:
    status = weights_status(labels={"canary": 3, "stable": 2})
    assert drawn(status_view(status, NOW)).splitlines()[0].endswith(", epoch 7, canary is 3, stable is 2")
    text = drawn(versions_view([stored(2), stored(3)], status, NOW))
    assert row_of(text, "      2")[1:4] == ["previous,", "resident,", "stable"]
    assert row_of(text, "      3")[1:3] == ["current,", "canary"]


def test_a_place_that_is_followed_is_in_the_status_with_what_is_wrong_with_it() -> None:
    uri, outcome = "s3://***@bucket/runs", AttemptOutcome.COMMITTED
    follow = FollowStatus(uri=uri, last_seen="step-10", last_tried="step-9", outcome=outcome)
    text = drawn(status_view(weights_status(follow=follow), NOW))
    assert text.splitlines()[-1] == "follows s3://***@bucket/runs: newest step-10, step-9 committed"
    broken = FollowStatus(uri="runs", error="no answer within 60 s")
    text = drawn(status_view(weights_status(follow=broken), NOW))
    assert text.splitlines()[-1] == "follows runs: newest none: no answer within 60 s"


def test_a_receipt_is_a_row_with_everything_that_a_replica_has_signed() -> None:
    text = drawn(status_view(weights_status(), NOW))
    signed = ["b4ba52", "4711", "gpu", "0", "3", "3f3a9c1e88d2", "1312.4", "4.2", "2"]
    assert row_of(text, "r-one") == ["r-one", *signed]
    assert row_of(text, "r-two") == ["r-two", *signed]
    for column in ("replica", "node", "pid", "device", "version", "digest", "stage", "commit", "also"):
        assert column in text


def test_a_receipt_of_a_replica_on_a_cpu_with_nothing_behind_it() -> None:
    found = receipt("r-one", 0, None).model_copy(update={"gpu_ids": (), "digest": "", "device": "cpu"})
    text = drawn(status_view(weights_status(current=BUILT_IN, previous=None, replicas=(found,)), NOW))
    assert row_of(text, "r-one") == ["r-one", "b4ba52", "4711", "cpu", "0", "-", "1312.4", "4.2", "-"]
    assert "gpu" not in text
    assert text.startswith("m  version 0 (built into the package), epoch 7")


def test_replicas_of_different_packages_are_told() -> None:
    old, new = receipt("r-one", 3, None), receipt("r-two", 3, None).model_copy(update={"package": "9b" * 32})
    assert "packages" not in drawn(status_view(weights_status(replicas=(old,)), NOW))
    told = drawn(status_view(weights_status(replicas=(old, new, old)), NOW))
    assert "the replicas run different packages: 5e5e5e5e5e5e on 2, 9b9b9b9b9b9b on 1" in told


@pytest.mark.parametrize(
    ("before", "resident", "said"),
    [
        (version(2), 2, "previous 2 (step 200),"),
        (version(2), None, "previous 2 (step 200) (stored, not in memory),"),
        (BUILT_IN, None, "previous 0 (built into the package) (not in memory),"),
    ],
)
def test_a_previous_version_that_no_replica_holds_is_called_that(
    before: Version, resident: int | None, said: str
) -> None:
    replicas = (receipt("r-one", 3, resident),)
    assert said in drawn(status_view(weights_status(previous=before, replicas=replicas), NOW), terminal=False)


def test_a_model_without_replicas_says_so() -> None:
    assert "no replica has reported yet" in drawn(status_view(weights_status(replicas=()), NOW))


def test_receipts_fit_80_columns() -> None:
    assert max(map(len, drawn(status_view(weights_status(), NOW), width=200).splitlines())) <= 80


def test_nothing_is_lost_on_a_narrow_screen_and_nothing_folded_in_a_pipe() -> None:
    status = weights_status(swap=swap_progress("staging", ("r-one", 1, False)), last=ended(error="x" * 300))
    narrow = drawn(status_view(status, NOW), width=60)
    assert max(map(len, narrow.splitlines())) <= 60
    assert narrow.count("x") >= 300
    assert "b4ba52  4711  gpu 0   3        3f3a9c1e88d2" in drawn(status_view(status, NOW), width=60, terminal=False)
    assert "x" * 300 in drawn(status_view(status, NOW), width=60, terminal=False)


def test_a_bar_for_each_replica_with_its_bytes_and_its_state() -> None:
    text = drawn(swap_bars_view(swap_progress("staging", ("r-one", 40, True), ("r-two", 10, False))))
    assert text.splitlines()[0] == "swap 9c0ffee01234 to version 4: staging, 1 of 2 replicas"
    full, quarter = row_of(text, "r-one"), row_of(text, "r-two")
    assert full[2:] == ["40.0", "MB", "of", "40.0", "MB", "staged"]
    assert quarter[2:] == ["10.0", "MB", "of", "40.0", "MB", "staging"]


@pytest.mark.parametrize(
    ("phase", "done", "state"),
    [
        pytest.param("checking", False, "checking", id="checking"),
        pytest.param("staging", False, "staging", id="staging"),
        pytest.param("staging", True, "staged", id="staged"),
        pytest.param("committing", False, "committing", id="committing"),
        pytest.param("committing", True, "done", id="committed"),
        pytest.param("aborting", False, "aborting", id="aborting"),
        pytest.param("aborting", True, "aborted", id="aborted"),
        pytest.param("dreaming", True, "dreaming", id="a phase of a later server"),
    ],
)
def test_the_state_of_a_replica(phase: str, done: bool, state: str) -> None:
    assert row_of(drawn(swap_bars_view(swap_progress(phase, ("r-one", 10, done)))), "r-one")[-1] == state


def test_while_the_weights_are_checked_nothing_is_known_of_version_and_bytes() -> None:
    text = drawn(swap_bars_view(swap_progress("checking", ("r-one", 0, False), version=None, nbytes=0)))
    assert text.splitlines()[0] == "swap 9c0ffee01234: checking"
    assert " of " not in text


@pytest.mark.parametrize("phase", ["staging", "committing"])
def test_what_has_been_staged_has_arrived_even_if_the_server_counts_no_bytes_any_more(phase: str) -> None:
    assert "40.0 MB of 40.0 MB" in drawn(swap_bars_view(swap_progress(phase, ("r-one", 0, True))))


def test_a_rollback_to_the_resident_version_moves_no_bytes() -> None:
    text = drawn(
        swap_bars_view(swap_progress("committing", ("r-one", 0, True), ("r-two", 40, True), action="rollback"))
    )
    assert row_of(text, "r-one")[2:] == ["resident", "done"]
    assert row_of(text, "r-two")[-1] == "done"
    assert "rollback 9c0ffee01234 to version 4" in text


def test_of_very_many_replicas_those_that_are_not_done_are_shown() -> None:
    replicas = [(f"r-{number:03}", 40, number != 99) for number in range(100)]
    text = drawn(swap_bars_view(swap_progress("committing", *replicas)))
    assert "99 of 100 replicas" in text
    assert "r-099" in text
    assert "and 76 more" in text
    assert len(text.splitlines()) < 30


def test_a_candidate_is_a_line_with_its_shares_and_since_when() -> None:
    text = drawn(status_view(weights_status(candidate=candidate()), NOW))
    assert text.splitlines()[1] == "candidate  version 4 (step 400), share 5%, shadow 10%, out for 12 min"
    assert "candidate" not in drawn(status_view(weights_status(), NOW))


def test_the_bars_of_a_swap_that_has_become_a_candidate_are_full() -> None:
    text = drawn(swap_bars_view(swap_progress("candidate", ("r-one", 0, True), ("r-two", 40, True))))
    assert text.splitlines()[0] == "swap 9c0ffee01234 to version 4: candidate, 2 of 2 replicas"
    assert row_of(text, "r-one")[2:] == ["40.0", "MB", "of", "40.0", "MB", "staged"]


def test_a_promotion_moves_no_bytes() -> None:
    text = drawn(swap_bars_view(swap_progress("committing", ("r-one", 0, True), action="promote")))
    assert row_of(text, "r-one")[2:] == ["resident", "done"]


def test_how_a_candidate_ended_that_nobody_has_withdrawn() -> None:
    last = ended(action="withdraw", outcome="withdrawn", version=4, error="replica r-two could not stage version 4")
    text = drawn(status_view(weights_status(last=last), NOW), terminal=False)
    assert "last: withdraw 77aa00bb11cc of version 4: withdrawn 1 min ago" in text
    assert text.rstrip().endswith(": replica r-two could not stage version 4")


def test_how_the_last_swap_ended() -> None:
    text = drawn(status_view(weights_status(last=ended()), NOW))
    says = "swap 77aa00bb11cc to version 3: committed 1 min ago, in 1.25 s"
    assert f"last: {says} (checking 0.05, staging 1.10, committing 0.10)" in " ".join(text.split())


def test_a_swap_that_failed_says_which_replica_and_why() -> None:
    why = "replica r-two could not stage version 4, nothing has changed: tensor 'a': missing from the weights"
    text = drawn(status_view(weights_status(last=ended(outcome="failed", error=why, version=4)), NOW), terminal=False)
    assert "to version 4: failed 1 min ago" in text
    assert text.rstrip().endswith(why)


def test_a_swap_that_failed_before_it_had_a_version() -> None:
    text = drawn(status_view(weights_status(last=ended(outcome="failed", error="no", version=None, phases={})), NOW))
    assert "last: swap 77aa00bb11cc: failed 1 min ago, in 1.25 s: no" in text


def test_what_a_swap_that_has_returned_shows() -> None:
    text = drawn(swap_view(weights_status(last=ended()), 1.5))
    says = "m answers with version 3 (step 300)  (1.50 s, checking 0.05, staging 1.10, committing 0.10)"
    assert text.splitlines()[0] == says
    assert row_of(text, "r-two")


@pytest.mark.parametrize(
    "last",
    [None, pytest.param(ended(version=9), id="another"), pytest.param(ended(outcome="failed", error="x"), id="failed")],
)
def test_the_phases_of_another_attempt_are_not_taken_for_ours(last: Any) -> None:
    assert "(1.50 s)" in drawn(swap_view(weights_status(last=last), 1.5))


def test_versions_with_their_marks() -> None:
    text = drawn(versions_view([stored(1), stored(2), stored(3, strict=False, label="")], weights_status(), NOW))
    first, second, third = (line.split() for line in text.splitlines()[2:5])
    assert first == ["1", "step", "100", "1f3a9c1e88d2", "14", "40.0", "MB", "10.0", "MB", "1", "h", "0"]
    assert text.splitlines()[-1] == "on the disk 60.0 MB, of which several versions share 30.0 MB"
    assert second[:3] == ["2", "previous,", "resident"]
    assert third[:4] == ["3", "current,", "not", "strict"]


def test_a_version_that_an_adapter_made_says_on_which_base() -> None:
    made = version(3, label="sql", adapter=MergedAdapter(base=1, digest="ad"))
    status = weights_status(current=made)
    assert "m answers with version 3 (sql, adapter on 1)" in drawn(swap_view(status, 1.0))
    assert "m  version 3 (sql, adapter on 1), previous 2 (step 200)" in drawn(status_view(status, NOW))
    listing = versions_view([stored(2), stored(3, label="sql", adapter=made.adapter)], status, NOW)
    listed = drawn(listing).splitlines()[-2]
    assert listed.split()[:6] == ["3", "current,", "adapter", "on", "1", "sql"]


def test_a_version_is_resident_only_if_every_replica_holds_it() -> None:
    status = weights_status(replicas=(receipt("r-one", 3, 2), receipt("r-two", 3, None)))
    assert "resident" not in drawn(versions_view([stored(2), stored(3)], status, NOW))
    assert "resident" not in drawn(versions_view([stored(2)], weights_status(replicas=()), NOW))


def test_the_built_in_version_is_listed_while_one_can_go_back_to_it() -> None:
    text = drawn(versions_view([stored(3)], weights_status(previous=BUILT_IN), NOW))
    assert text.splitlines()[2].split() == ["0", "previous", "built", "into", "the", "package", *["-"] * 6]
    assert "built into" not in drawn(versions_view([stored(3)], weights_status(), NOW))


@pytest.mark.parametrize(
    ("age", "text"),
    [(-30, "0 s"), (59, "59 s"), (120, "2 min"), (7200, "2 h"), (3 * 86400, "3 d")],
)
def test_ages(age: float, text: str) -> None:
    assert f"  {text}  " in drawn(versions_view([stored(3, created=NOW - age)], weights_status(), NOW))


def test_models_are_apart() -> None:
    assert drawn(spaced(["one", "two"])).splitlines() == ["one", "", "two"]
    assert drawn(spaced([])).strip() == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("[red]x[/] Größe 重み", "[red]x[/] Größe 重み", id="printable"),
        pytest.param("a\x1b[31mb", "a\\x1b[31mb", id="escape"),
        pytest.param("a\x9bb\x7f", "a\\x9bb\\x7f", id="C1 and DEL"),
        pytest.param("a\u202eb", "a\\u202eb", id="writing direction"),
        pytest.param("a\r\nb\tc", "a  b c", id="white space"),
        pytest.param("\ud800", "\\ud800", id="half a character"),
    ],
)
def test_text_of_others_is_one_line_that_no_terminal_obeys(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_everything_in_an_answer_is_made_safe() -> None:
    nasty = version(3, label=NASTY, digest=NASTY)
    replica = receipt("r", 3, 2).model_copy(update={"replica": NASTY, "node": "\x1b\x1b", "gpu_ids": ("\x1b",)})
    status = weights_status(
        model=NASTY,
        current=nasty,
        replicas=(replica,),
        candidate=candidate(version=nasty),
        swap=swap_progress(NASTY, (NASTY, 1, False), id=NASTY, action=NASTY),
        last=ended(error=NASTY, phases={NASTY: 1.0}),
    )
    read = value_of(WeightsStatus, as_json(status))
    assert "\x1b" not in read.model_dump_json().replace("\\u001b", "\x1b")
    text = drawn(status_view(read, NOW), width=1000) + drawn(
        versions_view(value_of(list[StoredVersion], [as_json_version(nasty)]), read, NOW)
    )
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "[red]" in text


def as_json_version(found: Any) -> Any:
    return found.model_dump()


def test_an_answer_of_another_kind_of_server_is_an_error_in_one_line() -> None:
    answer = as_json(weights_status()) | {"mood": "good"}
    with pytest.raises(ServerRefused, match=r"answers otherwise than aoti-serve .*mood.*--json") as caught:
        value_of(WeightsStatus, answer)
    assert "\n" not in str(caught.value)
    with pytest.raises(ServerRefused, match="answers otherwise"):
        value_of(list[StoredVersion], {"not": "a list"})


def test_a_swap_to_the_bytes_that_answer_says_that_nothing_was_staged() -> None:
    text = drawn(swap_view(weights_status(unchanged=True), 1.5))
    assert "answers with these bytes already: version" in text
    assert "nothing was staged" in text


def test_weights_that_were_let_in_without_acceptance_say_so_wherever_they_are_named() -> None:
    loose = version(3, skips_acceptance=True)
    status = weights_status(current=loose, previous=version(2, golden=GoldenFile(digest="a", nbytes=8, requests=2)))
    headline = "m  version 3 (step 300, acceptance skipped), previous 2 (step 200), epoch 7"
    assert drawn(status_view(status, NOW)).splitlines()[0] == headline
    assert "answers with version 3 (step 300, acceptance skipped)" in drawn(swap_view(status, 1))
    assert status.previous is not None
    listed = [stored(2, golden=status.previous.golden), stored(3, skips_acceptance=True)]
    table = drawn(versions_view(listed, status, NOW), width=160)
    assert "previous, resident, 2 golden requests" in table
    assert "current, acceptance skipped" in table


def test_how_a_checkpoint_was_read_is_told_after_a_swap_and_marked_in_the_list() -> None:
    names = NameRules(rename=(r"bert\.=",), drop=("pooler.*",))
    rounding = Rounding(tensors=2, tensor="fc.weight", error=0.25, value=300.7)
    made = version(3).model_copy(update={"names": names, "rounding": rounding})
    listed = [stored(2), stored(3, names=names, rounding=rounding)]
    told = drawn(swap_view(weights_status(current=made), 1.0))
    said = "2 tensors cast, a value of 301 in fc.weight rounded by 0.25, none by more"
    assert rf"rename bert\.=, drop pooler.*, {said}" in " ".join(told.split())
    assert "renamed, cast" in drawn(versions_view(listed, weights_status(current=made), NOW))
    exact = made.model_copy(update={"rounding": rounding.model_copy(update={"error": 0.0})})
    assert "2 tensors cast, without rounding" in drawn(swap_view(weights_status(current=exact), 1.0))
