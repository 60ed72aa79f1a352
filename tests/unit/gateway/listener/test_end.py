"""Nobody meets a reset: not one whose body is not wanted, and nobody when a listener goes."""

from __future__ import annotations

import asyncio
import http.client
import multiprocessing
import threading
from collections import Counter
from multiprocessing.connection import Connection

import pytest
from starlette.types import Receive, Scope, Send

from aoti_serve.gateway.listener import server
from tests.unit.gateway.listener.wired import (
    HOST,
    LARGE,
    Wired,
    answer,
    echo,
    everything,
    loop_in_a_thread,
    refuse,
    status_of,
    wired,
)

SPAWN = multiprocessing.get_context("spawn")


def test_a_body_that_nobody_wants_is_answered_without_a_reset() -> None:
    with wired(refuse) as served:
        for _ in range(10):
            with served.connect() as client:
                client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(LARGE))
                client.sendall(LARGE)
                answered = everything(client)
            assert status_of(answered) == 503
            assert b"connection: close" in answered


def test_a_body_that_is_announced_is_not_asked_for() -> None:
    with wired(refuse) as served, served.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\nexpect: 100-continue\r\n\r\n" % len(LARGE))
        answered = everything(client)
        assert status_of(answered) == 503
        client.close()


def test_a_body_that_is_announced_and_sent_nevertheless_meets_no_reset() -> None:
    with wired(refuse) as served, served.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\nexpect: 100-continue\r\n\r\n" % len(LARGE))
        client.sendall(LARGE)
        assert status_of(everything(client)) == 503


def test_one_that_never_ends_its_body_is_left_in_time() -> None:
    with wired(refuse) as served, served.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
        assert status_of(everything(client)) == 503
        served.after(4)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012
            while True:
                client.sendall(b"a")


class Door:
    """Answers 200, or 503 once it is closed, as the gateway does."""

    def __init__(self) -> None:
        self.open = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.open:
            await echo(scope, receive, send)
        else:
            await answer(send, 503, b"later", (b"retry-after", b"1"))


class Clients:
    """Eight that keep their connection, and eight that connect for each request, until they are stopped or refused.

    `seen` counts statuses, and the names of errors.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self.seen: Counter[int | str] = Counter()
        self.answered = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[keeps]) for keeps in (True, False) for _ in range(8)]
        for thread in self._threads:
            thread.start()

    def _ask(self, keeps: bool) -> None:
        client = self._connection()
        while not self._stop.is_set():
            try:
                client.request("POST", "/", b"x" * 4096)
                response = client.getresponse()
                response.read()
                self.seen[response.status] += 1
                self.answered.set()
            except ConnectionRefusedError:
                return
            except (OSError, http.client.HTTPException) as error:
                self.seen[type(error).__name__] += 1
                return
            if not keeps:
                client.close()
        client.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self._port, timeout=20)

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_when_the_only_listener_goes_everybody_is_answered_until_the_port_is_closed(host: str) -> None:
    door = Door()
    with wired(door, host=host) as served:
        clients = Clients(served.address[1])
        assert clients.answered.wait(20)
        door.open = False
        served.close(20)
        clients.join()
    assert set(clients.seen) <= {200, 503}


def come_and_go(port: int, orders: Connection) -> None:
    """In a process of its own: for each order a listener comes, and for the next it goes."""
    server.NOTICE_S = 0.05  # long enough here, and the test has many rounds
    with loop_in_a_thread() as loop:
        while orders.recv():
            door = Door()
            served = Wired(loop, door, http_port=port)
            orders.send("open")
            orders.recv()
            door.open = False
            served.close(20)
            orders.send("closed")


def test_an_idle_connection_is_closed_on_the_way_out_and_a_busy_one_is_answered_first() -> None:
    release = asyncio.Event()

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/busy":
            await release.wait()
        await answer(send, 200, b"")

    with wired(busy) as served:
        with served.connect() as idle, served.connect() as waiting:
            idle.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"connection: close" not in idle.recv(2**16)
            waiting.sendall(b"GET /busy HTTP/1.1\r\nhost: x\r\n\r\n")
            served.clock.now += 2
            closing = threading.Thread(target=served.close, args=[20])
            closing.start()
            last = b""
            while b"connection: close" not in last:  # until it has heard that it is the last
                idle.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                last = idle.recv(2**16)
            assert everything(idle) == b""
            served.call(release.set)
            assert b"connection: close" in everything(waiting)
        closing.join()


def test_what_is_in_flight_is_cut_in_the_end() -> None:
    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    with wired(stuck) as served, served.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        served.close(0.1)
        assert everything(client) == b""


def test_when_one_of_two_listeners_goes_nobody_sees_anything_but_answers() -> None:
    orders, theirs = SPAWN.Pipe()
    with wired(echo) as served:
        other = SPAWN.Process(target=come_and_go, args=[served.address[1], theirs])
        other.start()
        clients = Clients(served.address[1])
        for _ in range(20):
            for expected in ("open", "closed"):
                orders.send(True)
                assert orders.poll(20)
                assert orders.recv() == expected
        clients.stop()
        orders.send(False)
        other.join(20)
    assert set(clients.seen) == {200, 503}
