"""Which requests meet a candidate."""

from __future__ import annotations

import pytest

from aoti_serve.gateway.versions.sticky import EvenShare, falls_to_candidate

KEYS = [f"client {number}" for number in range(20_000)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 0.99, 1.0])
def test_the_share_is_that_of_the_keys(share: float) -> None:
    found = sum(falls_to_candidate(key, "swap", share) for key in KEYS) / len(KEYS)
    assert found == pytest.approx(share, abs=0.01)


def test_a_growing_share_keeps_whom_it_has() -> None:
    shares = [0.01, 0.05, 0.2, 0.5, 1.0]
    for key in KEYS[:500]:
        met = [falls_to_candidate(key, "swap", share) for share in shares]
        assert met == sorted(met)


def test_the_next_candidate_meets_others() -> None:
    first, second = ({key for key in KEYS if falls_to_candidate(key, swap, 0.1)} for swap in ("one", "two"))
    assert len(first & second) / len(first) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 1.0])
def test_shadows_are_spread_evenly(share: float) -> None:
    even = EvenShare()
    taken = [even.take(share) for _ in range(300)]
    for calls in range(1, 301):
        assert abs(sum(taken[:calls]) - share * calls) <= 1
