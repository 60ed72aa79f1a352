"""The command `label` from its arguments to its output, against a tiny server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from aoti_serve.token import TOKEN_VARIABLE
from tests.unit.cli.played import Played, Reply, playing
from tests.unit.cli.test_weights import run, says

LABELS = "/v2/models/m/weights/labels"
STABLE = f"{LABELS}/stable"


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    with playing() as server:
        for route in (f"GET {LABELS}", f"PUT {STABLE}", f"DELETE {STABLE}"):
            server.replies[route] = Reply({"canary": 8, "stable": 7})
        monkeypatch.setenv("AOTI_SERVE_URL", server.url)
        yield server


def test_it_lists_them(played: Played) -> None:
    assert run("label", "m").stdout == "canary 8\nstable 7\n"
    assert json.loads(run("label", "m", "--json").stdout) == {"canary": 8, "stable": 7}
    played.replies[f"GET {LABELS}"] = Reply({})
    assert run("label", "m").stdout == "m has no labels\n"


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ([], {"version": 7}),
        (["--expected", "5"], {"version": 7, "expected": 5}),
        (["--expected", "none"], {"version": 7, "expected": None}),
    ],
)
def test_it_moves_one(played: Played, arguments: list[str], body: dict[str, Any]) -> None:
    assert run("label", "m", "stable", "7", *arguments).exit_code == 0
    assert json.loads(played.asked_for(STABLE)[0].body) == body


def test_it_deletes_one(played: Played) -> None:
    for expected in ("5", "none"):
        assert run("label", "m", "stable", "--delete", "--expected", expected).exit_code == 0
    assert run("label", "m", "stable", "--delete").exit_code == 0
    assert [asked.query for asked in played.asked_for(STABLE)] == [
        {"expected": "5"},
        {"expected": "none"},
        {"expected": "any"},
    ]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["stable"], "name the VERSION for the label, or say --delete; one of both"),
        (["stable", "7", "--delete"], "one of both"),
        (["--delete"], "name: "),
        (["active", "7"], "name: the server itself says what 'active' is"),
        (["stable", "7", "--expected", "two"], "expected"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_server_is_asked(
    played: Played, arguments: list[str], why: str
) -> None:
    assert why in says("label", "m", *arguments)
    assert played.asked == []


def test_a_label_that_is_not_there_cannot_be_deleted(played: Played) -> None:
    assert "m has no label 'stabel'; it has canary, stable" in says("label", "m", "stabel", "--delete")
    assert [asked.path for asked in played.asked] == [LABELS]
