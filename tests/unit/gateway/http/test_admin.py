"""Who may use the weights API, and with which bodies."""

from __future__ import annotations

import re
from hashlib import sha256

import pytest
from pydantic import ValidationError

from aoti_serve.errors import AdminClosed, Unauthorized
from aoti_serve.gateway.http.admin import Guard, token_digest
from aoti_serve.gateway.http.weights import RollbackBody, SwapBody

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("Bearer s3cret", id="plain"),
        pytest.param("bearer s3cret", id="lowercase"),
        pytest.param("Bearer  s3cret ", id="spaces"),
    ],
)
def test_the_token_opens(header: str) -> None:
    Guard(token_digest("s3cret")).check(header)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        pytest.param(None, "no token was sent", id="nothing"),
        pytest.param("", "no token was sent", id="empty"),
        pytest.param("s3cret", "no token was sent", id="no-scheme"),
        pytest.param("Basic s3cret", "no token was sent", id="another-scheme"),
        pytest.param("Bearer", "no token was sent", id="no-token"),
        pytest.param("Bearer S3cret", "is wrong", id="another-token"),
        pytest.param("Bearer s3cret2", "is wrong", id="longer"),
        pytest.param("Bearer s3cret,x", "is wrong", id="list"),
        pytest.param("Bearer \xff\u20ac", "is wrong", id="not-ascii"),
        pytest.param(f"Bearer {token_digest('s3cret')}", "is wrong", id="the-digest"),
    ],
)
def test_anything_else_is_unauthorized(header: str | None, reason: str) -> None:
    with pytest.raises(Unauthorized, match=reason) as caught:
        Guard(token_digest("s3cret")).check(header)
    assert "s3cret" not in str(caught.value)


def test_what_the_audit_log_says_of_a_token_cannot_be_tried_by_who_reads_the_log() -> None:
    """It is the same in all gateways of an application, and another in each application."""
    digests = [token_digest("weak"), token_digest("weak")]
    names = [Guard(digest).holder for digest in digests]
    assert names == [Guard(digest).holder for digest in digests]
    assert names[0] != names[1]
    assert all(re.fullmatch("token [0-9a-f]{8}", name) for name in names)
    assert sha256(b"weak").hexdigest()[:8] not in "".join(names)


@pytest.mark.parametrize("header", [pytest.param(None, id="nothing"), pytest.param("Bearer x", id="a-token")])
def test_without_a_configured_token_nothing_opens(header: str | None) -> None:
    with pytest.raises(AdminClosed):
        Guard(None).check(header)


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
