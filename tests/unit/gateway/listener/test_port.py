"""A port belongs to one application: its gateways share it, and everybody else is told who has it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from aoti_serve.errors import AotiServeError, PortTaken, StartFailed
from aoti_serve.gateway.listener.claim import addresses_overlap
from aoti_serve.gateway.listener.port import BoundPort, WantedPort, bind, refuse_handshakes
from tests.unit.gateway.listener.wired import HOST, free_port

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def _claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def port() -> int:
    return free_port()


class Held(ExitStack):
    """What listens during a test."""

    def bind(self, host: str, port: int, owner: str) -> BoundPort:
        (bound,) = bind(WantedPort(host, port, owner))
        self.callback(bound.close)
        return bound


def test_gateways_of_one_application_share_a_port(port: int) -> None:
    with Held() as held:
        one, two = held.bind(HOST, port, "ours"), held.bind(HOST, port, "ours")
        assert one.socket.getsockname() == two.socket.getsockname()


def test_another_application_of_the_same_user_is_told_whose_it_is(port: int) -> None:
    with Held() as held:
        held.bind(HOST, port, "ours")
        with pytest.raises(PortTaken) as taken:
            bind(WantedPort(HOST, port, "theirs"))
    for part in ("application ours", f"pid {os.getpid()}", "gateway.http_port", "proxy_location: Disabled", "null"):
        assert part in str(taken.value)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "with-reuseport"])
def test_a_foreign_program_is_named(port: int, shared: bool) -> None:
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        foreign.bind((HOST, port))
        foreign.listen()
        with pytest.raises(PortTaken, match=rf"python.*\(pid {os.getpid()}\)"):
            bind(WantedPort(HOST, port, "ours"))


@pytest.mark.parametrize(
    ("first", "second"), [("0.0.0.0", HOST), (HOST, "0.0.0.0"), ("::", HOST), (HOST, "::"), ("::1", "::")]
)
def test_a_host_includes_another(first: str, second: str, port: int) -> None:
    with Held() as held:
        held.bind(first, port, "ours")
        with pytest.raises(PortTaken, match="application ours"):
            bind(WantedPort(second, port, "theirs"))


def test_two_applications_have_one_port_of_two_addresses(port: int) -> None:
    with Held() as held:
        held.bind(HOST, port, "ours")
        held.bind("127.0.0.2", port, "theirs")
    assert not addresses_overlap("127.0.0.1", "127.0.0.2")


def test_a_port_is_free_again_when_all_have_left(port: int) -> None:
    with Held() as held:
        held.bind(HOST, port, "ours")
        held.bind(HOST, port, "ours")
    with Held() as held:
        held.bind(HOST, port, "theirs")
        with pytest.raises(PortTaken, match="theirs"):
            bind(WantedPort(HOST, port, "ours"))


def test_a_port_is_kept_by_those_who_have_joined(port: int) -> None:
    with Held() as held:
        with Held() as first:
            first.bind(HOST, port, "ours")
            held.bind(HOST, port, "ours")
        with pytest.raises(PortTaken, match="application ours"):
            bind(WantedPort(HOST, port, "theirs"))


def hold(folder: str, port: int, ready: Connection) -> None:
    import tempfile

    tempfile.tempdir = folder
    bound = bind(WantedPort(HOST, port, "ours"))
    ready.send("bound")
    ready.recv()
    del bound


def test_a_port_of_one_that_was_killed_is_free(port: int, tmp_path: Path) -> None:
    ready, theirs = SPAWN.Pipe()
    other = SPAWN.Process(target=hold, args=[str(tmp_path), port, theirs])
    other.start()
    assert ready.recv() == "bound"
    with pytest.raises(PortTaken, match=f"pid {other.pid}"):
        bind(WantedPort(HOST, port, "theirs"))
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with Held() as held:
        held.bind(HOST, port, "theirs")


def test_of_many_that_start_at_once_one_owner_gets_the_port(port: int) -> None:
    def attempt(owner: str) -> BoundPort | AotiServeError:
        try:
            return bind(WantedPort(HOST, port, owner))[0]
        except AotiServeError as error:
            return error

    with ThreadPoolExecutor(16) as threads, Held() as held:
        outcomes = list(threads.map(attempt, ["ours", "theirs"] * 8))
        bound = [outcome for outcome in outcomes if isinstance(outcome, BoundPort)]
        for one in bound:
            held.callback(one.close)
        assert len(bound) == 8
        assert {one.claim.owner for one in bound} in ({"ours"}, {"theirs"})


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_a_host_that_is_not_this_machine_is_named(host: str, port: int) -> None:
    with pytest.raises(StartFailed, match=f"cannot listen on {host}"):
        bind(WantedPort(host, port, "ours"))


def test_a_folder_that_others_may_write_is_not_used(port: int, tmp_path: Path) -> None:
    folder = tmp_path / f"aoti-serve-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(StartFailed, match="private"):
        bind(WantedPort(HOST, port, "ours"))


def test_whoever_comes_after_the_last_handshake_is_kept_waiting_and_whoever_was_before_is_served(port: int) -> None:
    with Held() as held:
        listening = held.bind(HOST, port, "ours").socket
        with socket.create_connection((HOST, port), 5):
            refuse_handshakes(listening)
            with pytest.raises(TimeoutError):
                socket.create_connection((HOST, port), 0.2)
            accepted, _ = listening.accept()
            accepted.close()
