"""Wrong tokens are slowed down, by a played clock; and nobody else is."""

from __future__ import annotations

import pytest

from aoti_serve.gateway.wrong_tokens import BURST, EACH_S, MOST_ADDRESSES, MOST_HOLDERS, WrongTokens


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wrong(clock: Clock) -> WrongTokens:
    return WrongTokens(clock)


def guessed(wrong: WrongTokens, address: str, most: int = 1000) -> int:
    """How many wrong tokens of so many are looked at now."""
    looked = 0
    while looked < most and not wrong.barred_s(address):
        wrong.add(address)
        looked += 1
    return looked


def test_some_are_looked_at_then_one_a_second(wrong: WrongTokens, clock: Clock) -> None:
    assert guessed(wrong, "a") == BURST
    assert 0 < wrong.barred_s("a") <= EACH_S
    for _ in range(100):
        clock.now += EACH_S
        assert guessed(wrong, "a") == 1


def test_an_hour_of_guesses_is_as_many_as_seconds(wrong: WrongTokens, clock: Clock) -> None:
    looked = 0
    for _ in range(36_000):
        clock.now += EACH_S / 10
        looked += guessed(wrong, "a")
    assert looked <= 3600 + BURST


def test_a_bar_ends_a_second_after_the_last_guess_however_many_there_were(wrong: WrongTokens, clock: Clock) -> None:
    for _ in range(10_000):
        clock.now += EACH_S / 100
        guessed(wrong, "a")
    clock.now += EACH_S
    assert wrong.barred_s("a") == 0


@pytest.mark.parametrize("rest", [1, 100])
def test_after_a_rest_the_whole_burst_is_there_again_and_no_more(wrong: WrongTokens, clock: Clock, rest: int) -> None:
    guessed(wrong, "a")
    clock.now += rest * BURST * EACH_S
    assert guessed(wrong, "a") == BURST


def test_another_address_waits_for_nobody(wrong: WrongTokens) -> None:
    guessed(wrong, "192.0.2.1")
    assert wrong.barred_s("192.0.2.1")
    assert not wrong.barred_s("192.0.2.2")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "192.0.2.2", False),
        ("", "nobody", False),
    ],
)
def test_addresses_that_one_client_may_choose_from_are_one(
    wrong: WrongTokens, one: str, other: str, same: bool
) -> None:
    guessed(wrong, one)
    assert bool(wrong.barred_s(other)) is same


def test_memory_is_bounded_and_the_latest_are_kept(wrong: WrongTokens) -> None:
    for number in range(2 * MOST_ADDRESSES):
        guessed(wrong, f"address {number}", BURST)
    for number in range(2 * MOST_HOLDERS):
        wrong.add_holder(("a", "inference", str(number)))
    assert (len(wrong._forgiven), len(wrong._holders)) == (MOST_ADDRESSES, MOST_HOLDERS)
    assert wrong.barred_s(f"address {2 * MOST_ADDRESSES - 1}")
    assert wrong.is_holder(("a", "inference", str(2 * MOST_HOLDERS - 1)))
