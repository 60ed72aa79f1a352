"""Ports: which are free, and who holds the others."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from aoti_serve.launcher.ports import free_port, holder_of


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_the_holder_of_a_port_is_named(taken: int) -> None:
    holder = holder_of("127.0.0.1", taken)
    assert holder is not None
    assert f"(pid {os.getpid()})" in holder


def test_a_port_on_all_addresses_is_taken_if_it_is_on_one(taken: int) -> None:
    assert holder_of("0.0.0.0", taken) is not None


def test_nobody_holds_a_free_port(taken: int) -> None:
    assert holder_of("127.0.0.1", free_port(taken)) is None


def test_the_preferred_port_is_taken_if_it_is_free(taken: int) -> None:
    free = free_port(taken)
    assert free != taken
    assert free_port(free) == free
