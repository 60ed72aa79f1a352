"""The door of a gateway."""

from __future__ import annotations

import pytest

from aoti_serve.errors import Stopping
from aoti_serve.gateway.in_flight import InFlight


def test_it_counts_who_is_inside_also_when_they_fail() -> None:
    door = InFlight()
    with door, door:
        assert door.inside == 2
    with pytest.raises(ValueError, match="mine"), door:
        raise ValueError("mine")
    assert door.inside == 0


def test_once_closed_it_lets_nobody_in_and_those_inside_finish() -> None:
    door = InFlight()
    with door:
        door.open = False
        with pytest.raises(Stopping), door:
            raise AssertionError
        assert door.inside == 1
    assert door.inside == 0
