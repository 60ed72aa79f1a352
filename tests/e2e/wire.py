"""One TCP connection, byte by byte, for what HTTP clients do not let one do."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

PATIENCE_S = 30.0
PIECE = 2**16


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A context manager; `send` and `answer` as often as wanted.

    A server may say with any answer that it closes; then the next request goes over a new connection. `connections`
    counts them.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.connections = 0
        self._open()

    def _open(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), PATIENCE_S)
        self._buffer = b""
        self._closing = False
        self.connections += 1

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        if self._closing:
            self.close()
            self._open()
        self._socket.sendall(data)

    def offer(self, data: bytes, patience_s: float) -> int:
        """Send of it what is taken, until nobody takes anything for so long; how many bytes that were."""
        left = memoryview(data)
        self._socket.settimeout(patience_s)
        try:
            while left:
                left = left[self._socket.send(left[:PIECE]) :]
        except TimeoutError:
            pass
        self._socket.settimeout(PATIENCE_S)
        return len(data) - len(left)

    def answer(self) -> Answer:
        """The next one; interim ones (1xx) count."""
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        self._closing = headers.get("connection") == "close"
        return Answer(status, headers, self._body(status, headers))

    def ended(self) -> bool:
        """Wait for the server to close; whether it did without another byte."""
        try:
            return not self._buffer and not self._socket.recv(1)
        except ConnectionResetError:
            return True

    def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status < 200:
            return b""
        if headers.get("transfer-encoding") == "chunked":
            return b"".join(iter(self._chunk, b""))
        return self._take(int(headers["content-length"]))

    def _chunk(self) -> bytes:
        size = int(self._until(b"\r\n"), 16)
        return self._take(size + 2)[:-2]

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._receive()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _take(self, size: int) -> bytes:
        pieces, missing = [self._buffer], size - len(self._buffer)
        while missing > 0:
            pieces.append(self._received())
            missing -= len(pieces[-1])
        whole = b"".join(pieces)
        self._buffer = whole[size:]
        return whole[:size]

    def _receive(self) -> None:
        self._buffer += self._received()

    def _received(self) -> bytes:
        data = self._socket.recv(PIECE)
        assert data, f"closed after {self._buffer[:200]!r}"
        return data


def head(method: str, path: str, fields: Mapping[str, object] | None = None, version: str = "1.1") -> bytes:
    """The bytes of a request up to its body."""
    lines = [f"{name}: {value}" for name, value in ({"Host": "127.0.0.1"} | dict(fields or {})).items()]
    return "\r\n".join([f"{method} {path} HTTP/{version}", *lines, "", ""]).encode()


def until(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition. To ask for it takes a fifth of a core at most: the servers need the others."""
    deadline = time.monotonic() + patience_s
    while True:
        asked = time.monotonic()
        if holds():
            return
        now = time.monotonic()
        assert now < deadline, f"not within {patience_s} s"
        time.sleep(max(0.01, 4 * (now - asked)))
