"""A client that sends one small request after the other, in a process of its own: how long does it wait?

    python -m httpbench.hostile.probe HOST PORT FILE

FILE holds the bytes of the request. `start` and `stop` come as lines on the standard input; each `stop` is answered by
a line of JSON with what has happened since the last `start`.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PATIENCE_S, AGAIN_S = 60.0, 0.05


class Waits(NamedTuple):
    """Of so many requests, in ms; `failed` got no answer with status 200."""

    asked: int
    p99: float
    longest: float
    failed: int


class Probe(NamedTuple):
    """The parent's end."""

    process: subprocess.Popen[str]

    def start(self) -> None:
        self._tell("start")

    def stop(self) -> Waits:
        assert self.process.stdout is not None
        self._tell("stop")
        return Waits(*json.loads(self.process.stdout.readline()))

    def _tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()


@contextmanager
def probing(host: str, port: int, request: Path) -> Iterator[Probe]:
    command = [sys.executable, "-m", "httpbench.hostile.probe", host, str(port), str(request)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Probe(process)
        process.terminate()


def main() -> None:
    host, port, file = sys.argv[1:]
    request = Path(file).read_bytes()
    gc.disable()  # a collection would be a wait
    for word in sys.stdin:
        if word.strip() == "start":
            print(json.dumps(summed_up(*asked_until_told((host, int(port)), request))), flush=True)


def asked_until_told(place: tuple[str, int], request: bytes) -> tuple[list[float], int]:
    """The seconds of each request, and how many failed."""
    client = _Client(place, request)
    waits: list[float] = []
    failed = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.perf_counter()
        failed += not client.ask()
        waits.append(time.perf_counter() - began)
    sys.stdin.readline()
    client.close()
    return waits, failed


def summed_up(waits: list[float], failed: int) -> Waits:
    ordered = sorted(1e3 * wait for wait in waits) or [0.0]
    return Waits(len(waits), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1], failed)


class _Client:
    """One connection, made anew when a request has failed."""

    def __init__(self, place: tuple[str, int], request: bytes) -> None:
        self._place = place
        self._request = request
        self._connection: socket.socket | None = None

    def ask(self) -> bool:
        """Whether the answer has status 200; it has been read to its end."""
        good = False
        try:
            self._connection = self._connection or socket.create_connection(self._place, PATIENCE_S)
            good = _answered(self._connection, self._request)
        except OSError:
            time.sleep(AGAIN_S)
        if not good:
            self.close()
        return good

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _answered(connection: socket.socket, request: bytes) -> bool:
    """Raises OSError."""
    connection.sendall(request)
    got = bytearray()
    while (end := got.find(b"\r\n\r\n")) < 0:
        got += _some(connection)
    length = int(bytes(got[:end]).lower().partition(b"content-length:")[2].split()[0])
    while len(got) < end + 4 + length:
        got += _some(connection)
    return got.startswith(b"HTTP/1.1 200")


def _some(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise ConnectionResetError("the server has ended the connection")
    return part


if __name__ == "__main__":
    main()
