"""Digests of tokens: what they admit, and what can be learnt from them."""

from __future__ import annotations

import pickle

from aoti_serve.token import TokenSet


def test_each_token_has_its_name_and_nothing_else_has_one() -> None:
    tokens = TokenSet(b"key", {"one": "ci", "two": "trainer"})
    assert [tokens.name_of(token) for token in ("one", "two", "ci", "", "One", "one ", "\N{SNOWMAN}")] == [
        "ci",
        "trainer",
        *[None] * 5,
    ]


def test_those_that_are_replaced_hold_no_longer() -> None:
    tokens = TokenSet(b"key", {"one": "ci", "two": "ci"})
    assert tokens.replace({"two": "ci", "three": "ci"})
    assert [tokens.name_of(token) for token in ("one", "two", "three")] == [None, "ci", "ci"]
    assert not tokens.replace({"three": "ci", "two": "ci"})
    assert tokens.replace({"three": "ci", "two": "nightly"})


def test_without_a_name_it_is_called_by_its_digest_as_in_all_gateways_of_the_application() -> None:
    here, there, elsewhere = (TokenSet(key, {"weak": ""}).name_of("weak") for key in (b"a", b"a", b"b"))
    assert here == there != elsewhere
    assert here is not None
    assert here.startswith("token ")


def test_no_token_leaves_the_process_that_has_read_it() -> None:
    carried = pickle.dumps(TokenSet(b"key", {"a-weak-token": "ci"}))
    assert b"weak" not in carried
    assert pickle.loads(carried).name_of("a-weak-token") == "ci"


def test_an_empty_set_admits_nobody() -> None:
    assert not TokenSet(b"key")
    assert TokenSet(b"key").name_of("") is None
