"""The commands for a candidate from their arguments to their output, against a tiny server."""

from __future__ import annotations

import json

import pytest

from aoti_serve.cli.candidate_view import candidate_view
from tests.unit.cli.played import NOW, Played, Reply, as_json, candidate, ended, swap_progress, weights_status
from tests.unit.cli.test_render import drawn
from tests.unit.cli.test_weights import WEIGHTS, file, played, run, says, token

__all__ = ["file", "played", "token"]  # fixtures
OUT = as_json(weights_status(candidate=candidate(), last=ended(outcome="candidate", version=4)))
BUSY = "model 'm': version 4 is a candidate; promote it or withdraw it first"


def commands(url: str) -> str:
    return (
        f"next:\n  aoti-serve candidate m --url {url} --share 20%\n"
        f"  aoti-serve promote m --url {url}\n  aoti-serve withdraw m --url {url}\n"
    )


def test_a_swap_to_a_candidate_says_what_it_meets_and_what_is_next(played: Played, file: str) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(OUT)
    result = run("swap", "m", file, "--candidate", "--share", "5%", "--shadow", "0.1")
    assert (result.exit_code, result.stderr) == (0, "")
    first, _, rest = result.stdout.partition("\n")
    held = (
        "m holds version 4 (step 400) as a candidate: share 5%, shadow 10%; version 3 (step 300) goes on answering  ("
    )
    assert first.startswith(held)
    assert rest == commands(played.url)
    asked = played.asked_for(WEIGHTS)[-1].query
    assert asked == {"label": "step 300", "candidate": "true", "share": "0.05", "shadow": "0.1"}


def test_a_candidate_from_a_uri(played: Played) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(OUT)
    assert json.loads(run("swap", "m", "s3://b/x.safetensors", "--candidate", "--json").stdout) == OUT
    asked = {"uri": "s3://b/x.safetensors", "label": "x", "candidate": True}
    assert json.loads(played.asked_for(WEIGHTS)[-1].body) == asked


def test_shares_that_make_no_sense_are_not_sent(played: Played, file: str) -> None:
    assert "share and shadow are those of a candidate: say --candidate as well" in says(
        "swap", "m", file, "--share", "5%"
    )
    assert "share: 'a lot' is no share: write 5% or 0.05" in says("swap", "m", file, "--candidate", "--share", "a lot")
    assert "shadow: '110%' is more than the whole" in says("candidate", "m", "--shadow", "110%")
    assert played.asked == []


def test_the_same_bytes_are_no_candidate(played: Played, file: str) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply(as_json(weights_status(unchanged=True, last=ended(outcome="unchanged"))))
    assert "answers with these bytes already" in run("swap", "m", file, "--candidate").stdout


def test_without_options_the_candidate_is_shown(played: Played) -> None:
    played.replies[f"GET {WEIGHTS}"] = Reply(OUT)
    shown = run("candidate", "m").stdout
    assert shown.startswith("m  version 3 (step 300), epoch 7\ncandidate  version 4 (step 400), share 5%, shadow 10%, ")
    assert shown.endswith(commands(played.url))
    assert json.loads(run("candidate", "m", "--json").stdout) == OUT
    assert played.asked_for(f"{WEIGHTS}/candidate") == []
    assert "out for 12 min\n" in drawn(candidate_view(weights_status(candidate=candidate()), NOW, ["x"]))


@pytest.mark.parametrize(("share", "following"), [(0.0, "5%"), (0.2, "50%"), (0.5, None), (1.0, None)])
def test_the_next_share_is_a_larger_one(played: Played, share: float, following: str | None) -> None:
    out = as_json(weights_status(candidate=candidate(share=share)))
    played.replies[f"POST {WEIGHTS}/candidate"] = Reply(out)
    shown = run("candidate", "m", "--share", str(share)).stdout
    offered = [line.partition("--share ")[2] for line in shown.splitlines() if " candidate m " in line]
    assert offered == ([following] if following else [])


def test_where_there_is_none_a_command_makes_one(played: Played) -> None:
    said = f"m has no candidate; this makes one:\n  aoti-serve swap m --url {played.url} FILE --candidate\n"
    assert run("candidate", "m").stdout == said


def test_other_shares_are_sent_and_what_is_left_out_is_left_to_the_server(played: Played) -> None:
    played.replies[f"POST {WEIGHTS}/candidate"] = Reply(OUT)
    assert "candidate  version 4" in run("candidate", "m", "--share", "20%").stdout
    assert json.loads(run("candidate", "m", "--shadow", "0", "--json").stdout) == OUT
    asked = [json.loads(asked.body) for asked in played.asked_for(f"{WEIGHTS}/candidate")]
    assert asked == [{"share": 0.2}, {"shadow": 0.0}]


def test_a_promotion_ends_with_the_receipts(played: Played) -> None:
    last = ended(action="promote", phases={"checking": 0.01, "committing": 0.1})
    played.replies[f"POST {WEIGHTS}/promote"] = Reply(as_json(weights_status(last=last)))
    shown = run("promote", "m").stdout
    assert shown.startswith("m answers with version 3 (step 300)  (")
    assert "checking 0.01, committing 0.10)" in shown.splitlines()[0]
    assert "r-two    b4ba52" in shown


def test_a_withdrawal_says_what_is_gone_and_what_answers(played: Played) -> None:
    last = ended(action="withdraw", outcome="withdrawn", version=4)
    played.replies[f"POST {WEIGHTS}/withdraw"] = Reply(as_json(weights_status(last=last)))
    assert run("withdraw", "m").stdout.startswith("m has withdrawn version 4; version 3 (step 300) answers  (")
    assert json.loads(run("withdraw", "m", "--json").stdout)["last"]["outcome"] == "withdrawn"


@pytest.mark.parametrize("action", ["promote", "withdraw"])
def test_who_does_not_wait_is_told_how_to_follow(played: Played, action: str) -> None:
    under_way = swap_progress("committing", action=action)
    played.replies[f"POST {WEIGHTS}/{action}"] = Reply(as_json(weights_status(swap=under_way)), 202)
    follow = f"{action} 9c0ffee01234 has begun; follow it with `aoti-serve status m --url {played.url} --watch`\n"
    assert run(action, "m", "--no-wait").stdout == follow
    assert played.asked[-1].query == {"wait": "false"}


@pytest.mark.parametrize("action", ["swap", "rollback"])
def test_while_a_candidate_is_out_the_servers_own_words_say_so(played: Played, file: str, action: str) -> None:
    played.replies[f"GET {WEIGHTS}"] = Reply(OUT)
    for route in ("", "/rollback"):
        played.replies[f"POST {WEIGHTS}{route}"] = Reply({"error": BUSY}, 409)
    assert says(action, "m", *([file] if action == "swap" else [])) == f"error: {BUSY}\n"


def test_without_a_candidate_the_servers_own_words_say_so(played: Played) -> None:
    refusal = "model 'm' has no candidate: a swap with `candidate` makes one"
    for route in ("candidate", "promote", "withdraw"):
        played.replies[f"POST {WEIGHTS}/{route}"] = Reply({"error": refusal}, 409)
    for command in (["candidate", "m", "--share", "5%"], ["promote", "m"], ["withdraw", "m"]):
        assert says(*command) == f"error: {refusal}\n"


def test_the_status_shows_the_candidate(played: Played) -> None:
    played.replies[f"GET {WEIGHTS}"] = Reply(OUT)
    assert "\ncandidate  version 4 (step 400), share 5%, shadow 10%, out for " in run("status", "m").stdout
