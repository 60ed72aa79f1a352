"""The JSON bodies of the weights API."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from aoti_serve.gateway.http.weights.door import parsed
from aoti_serve.gateway.http.weights.swaps import RollbackBody, SwapBody
from aoti_serve.weights.swap_options import SwapOptions

DIGEST = "ab" * 32


def test_a_swap_names_a_uri_and_perhaps_more() -> None:
    assert SwapBody.model_validate_json('{"uri": "/w"}') == SwapBody(uri="/w", label="", sha256=None)
    assert SwapBody(uri="/w", label="step 7", sha256=DIGEST).sha256 == DIGEST


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("{}", id="no-uri"),
        pytest.param('{"uri": 5}', id="uri-a-number"),
        pytest.param('{"uri": "/w", "sha": "x"}', id="unknown-key"),
        pytest.param(f'{{"uri": "/w", "sha256": "{DIGEST[1:]}"}}', id="short-digest"),
        pytest.param(f'{{"uri": "/w", "sha256": "{DIGEST}\\n"}}', id="digest-with-a-newline"),
        pytest.param(f'{{"uri": "/w", "sha256": "{"g" * 64}"}}', id="digest-not-hex"),
        pytest.param(f'{{"uri": "/w", "label": "{"a" * 257}"}}', id="long-label"),
    ],
)
def test_a_swap_that_is_not_understood_is_refused(body: str) -> None:
    with pytest.raises(ValidationError):
        SwapBody.model_validate_json(body)


def test_a_rollback_may_name_a_version() -> None:
    assert RollbackBody.model_validate_json("{}").version is None
    assert RollbackBody.model_validate_json('{"version": 0}').version == 0


@pytest.mark.parametrize("version", [pytest.param("-1", id="negative"), pytest.param("1.5", id="fraction")])
def test_a_rollback_to_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(ValidationError):
        RollbackBody.model_validate_json(f'{{"version": {version}}}')


def test_a_swap_by_uri_takes_every_option_that_an_upload_takes() -> None:
    plan = {
        "canary": ["5%", 0.5],
        "each": "10s",
        "shadow": "10%",
        "abort_if": {"p99": "3x", "cosine": {"y": 0.9}},
        "watch": 0,
    }
    given = {"rollout": plan, "rename": ["a=b"], "drop": ["c"], "cast": True, "assets": {"words.txt": DIGEST}}
    as_query = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in given.items()}
    body = json.dumps({"uri": "/w"} | given).encode()
    assert parsed(SwapBody, body).options == SwapOptions.model_validate(as_query)
