"""Ports: who holds those that are not free."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from aoti_serve.errors import StartFailed
from aoti_serve.launcher.processes.free_ports import holder_of, hosts_overlap, is_wildcard, require_free


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


def test_a_taken_port_is_refused_with_a_way_out(taken: int) -> None:
    with pytest.raises(StartFailed, match=rf"port {taken} is taken by .* \(pid {os.getpid()}\); stop it, or leave"):
        require_free("127.0.0.1", taken, "leave")


def test_a_free_port_will_do() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    assert holder_of("127.0.0.1", port) is None
    require_free("localhost", port, "leave")


def test_a_host_that_is_not_here_is_refused() -> None:
    with pytest.raises(StartFailed, match=r"cannot listen on 192\.0\.2\.77"):
        holder_of("192.0.2.77", 8000)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "::", True),
        ("localhost", "host.example", False),
    ],
)
def test_which_hosts_overlap(one: str, other: str, meet: bool) -> None:
    assert hosts_overlap(one, other) is meet


def test_which_hosts_stand_for_all() -> None:
    assert [is_wildcard(host) for host in ("0.0.0.0", "::", "127.0.0.1", "localhost")] == [True, True, False, False]
