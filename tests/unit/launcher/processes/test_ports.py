"""Ports: who listens, for what, who can reach it, and who holds those that are not free."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from aoti_serve.cli.port_table import exposure_of, ports_table
from aoti_serve.errors import PortHeld, StartFailed
from aoti_serve.launcher.processes.ports import (
    ListeningPort,
    await_ports,
    holder_of,
    hosts_overlap,
    is_loopback,
    is_wildcard,
    listening_ports,
    require_free,
    title_of,
)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost", "a.localhost"])
def test_loopback_in_all_its_forms(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.2", "::ffff:192.0.2.2", "host.example"])
def test_what_others_reach(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("command", "title"),
    [
        (["ray::ServeReplica:default:digits-replica"], "digits-replica"),
        (
            ["ray::SERVE_REPLICA::default#digits-replica#x1:ServeReplica:default:digits-replica.__init__"],
            "digits-replica",
        ),
        (["ray::ProxyActor.update_draining"], "ProxyActor"),
        (["/venv/bin/python3.11", "-u", "/ray/dashboard/dashboard.py", "--port=8265"], "dashboard.py"),
        (["/venv/bin/python", "/venv/bin/aoti-serve", "up", "model.yaml"], "aoti-serve"),
        (["/ray/core/raylet", "--node=x"], "raylet"),
        ([], ""),
    ],
)
def test_processes_have_short_names(command: list[str], title: str) -> None:
    assert title_of(command) == title


def test_what_a_process_listens_on() -> None:
    this = psutil.Process()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        (found,) = [entry for entry in listening_ports([this], {port: "HTTP"}) if entry.port == port]
        assert (found.address, found.pid, found.purpose, found.public) == ("127.0.0.1", os.getpid(), "HTTP", False)
    assert port not in {entry.port for entry in listening_ports([this], {})}


def test_a_process_that_is_gone_listens_on_nothing() -> None:
    child = psutil.Popen(["true"])
    child.wait()
    assert listening_ports([child], {}) == []


HTTP = ListeningPort("0.0.0.0", 8000, 1, "gateway", "HTTP")
STORE = ListeningPort("::", 6379, 2, "gcs_server", "Ray's control store")
METRICS = ListeningPort("0.0.0.0", 9000, 3, "DashboardAgent", "metrics for Prometheus")
LOCAL = ListeningPort("127.0.0.1", 8265, 4, "dashboard.py", "Ray's dashboard")


def test_nothing_is_said_of_what_was_asked_for_and_of_loopback() -> None:
    assert exposure_of([HTTP, LOCAL], [8000], token=True) is None


def test_what_others_reach_is_counted_and_what_needs_no_token_is_named() -> None:
    text = exposure_of([HTTP, STORE, METRICS, LOCAL], [8000], token=True)
    assert text is not None
    assert "2 ports" in text
    assert "(9000)" in text
    assert "8000" not in text
    assert "which ask for Ray's token" in text


def test_calls_that_need_no_token_are_called_what_they_are() -> None:
    text = exposure_of([STORE], [8000], token=False)
    assert text is not None
    assert "whoever reaches them runs code here" in text


def test_the_table_has_a_row_for_each_purpose_and_ends_with_what_others_reach() -> None:
    workers = [ListeningPort("::", port, port, f"worker{port}", "calls") for port in (5001, 5002, 5003)]
    table = ports_table([*workers, HTTP, LOCAL])
    assert table.row_count == 3
    assert list(table.columns[1].cells) == ["127.0.0.1:8265", "0.0.0.0:8000", "[::]:5001 5002 5003"]
    assert list(table.columns[3].cells) == ["dashboard.py 4", "gateway 1", "3 processes"]


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


LISTENER = """
import os, socket, sys
def called(name):
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)
called(sys.argv[1])
if sys.argv[1] == "raylet" and os.fork():
    os.wait()
    sys.exit()
called("ray::Agent")
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("parent", "left"), [("python", True), ("raylet", False)])
def test_what_a_killed_server_has_left_is_called_that(parent: str, left: bool) -> None:
    command = [sys.executable, "-c", LISTENER, parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with pytest.raises(StartFailed, match=r"is taken by ray::Agent \(pid \d+\)") as raised:
            require_free("127.0.0.1", int(child.stdout.readline()), "choose another")
        assert ("which a server that was killed has left behind" in str(raised.value)) is left
        assert ("stop it" in str(raised.value)) is not left
        child.stdin.close()


def held(port: int, *, left_behind: bool) -> PortHeld:
    return PortHeld(port=port, holder="ray::Agent (pid 7)", pid=7, left_behind=left_behind, detail="; wait")


def test_ports_of_a_killed_server_are_waited_for() -> None:
    found = iter([[held(1, left_behind=True)], [held(2, left_behind=True)], []])
    told: list[str] = []
    await_ports(lambda: next(found), told.append, lambda: False)
    assert told == ["waiting: port 1 is taken by ray::Agent (pid 7); wait", told[1]]
    assert "port 2" in told[1]


def test_no_port_is_waited_for_that_another_server_holds_or_for_ever_or_after_ctrl_c() -> None:
    both = [held(1, left_behind=True), held(2, left_behind=False)]
    with pytest.raises(PortHeld, match="port 2"):
        await_ports(lambda: both, pytest.fail, lambda: False)
    now = iter(range(0, 1000, 100))
    with pytest.raises(PortHeld, match="port 1"):
        await_ports(lambda: both[:1], lambda _: None, lambda: False, lambda: next(now))
    await_ports(lambda: both[:1], lambda _: None, lambda: True)


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


LOWEST = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


@pytest.mark.skipif(int(LOWEST.read_text()) <= 1, reason="everybody may take every port here")
def test_a_port_that_only_root_may_take_is_not_called_taken() -> None:
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(StartFailed, match=r"port 1 is for root only.* take a higher one"):
            require_free("127.0.0.1", 1, "choose another")
    finally:
        if root:
            os.seteuid(0)
