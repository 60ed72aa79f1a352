"""A listener on the loopback in a thread with uvloop, as in a Serve replica, and clients that speak raw bytes."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.listener.http import http_listener

T = TypeVar("T")
HOST = "127.0.0.1"
PATIENCE_S = 20.0
# More than every buffer between a client and the application.
LARGE = b"a" * 64 * 2**20


async def answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def read(receive: Receive) -> bytes | None:
    """The whole body, or None if the client has gone."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body of the request."""
    body = await read(receive)
    if body is not None:
        await answer(send, 200, body)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers 503 before it has read anything."""
    await answer(send, 503, b"later")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Loop:
    """An event loop in a thread of its own; what is called here runs there."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def call(self, function: Callable[[], T]) -> T:
        async def called() -> T:
            return function()

        return self.run(called())

    def close(self) -> None:
        self.run(_end_the_others())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _end_the_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def loop_in_a_thread() -> Iterator[Loop]:
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()


class Wired:
    """A listener that answers, with a clock that the test moves."""

    def __init__(self, loop: Loop, app: ASGIApp, owner: str = "tests", **keys: Any) -> None:
        self._loop = loop
        self.clock = Clock()
        self.config = GatewayConfig(**{"host": HOST, "http_port": free_port(), **keys})
        self.listener = http_listener(app, self.config, owner, self.clock)
        loop.run(self.listener.open())
        self.address = (HOST, self.listener.address[1])

    def after(self, seconds: float, step: float = 1.0) -> None:
        """So much later, with a sweep at every step."""
        for _ in range(round(seconds / step)):
            self.clock.now += step
            self._loop.call(self.listener.sweep)

    def call(self, function: Callable[[], object]) -> None:
        """In the listener's event loop."""
        self._loop.call(function)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, PATIENCE_S)

    def http(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)

    def close(self, seconds: float = 0.0) -> None:
        self._loop.run(self.listener.close(seconds))


@contextmanager
def wired(app: ASGIApp, owner: str = "tests", **keys: Any) -> Iterator[Wired]:
    with loop_in_a_thread() as loop:
        served = Wired(loop, app, owner, **keys)
        try:
            yield served
        finally:
            served.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def everything(sock: socket.socket) -> bytes:
    """What comes until the server ends the connection. Raises ConnectionResetError if it does so rudely."""
    pieces = []
    while piece := sock.recv(2**16):
        pieces.append(piece)
    return b"".join(pieces)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])
