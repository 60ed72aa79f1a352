"""Clients that never stop asking, each on a connection of its own, and hand every answer to the judge."""

from __future__ import annotations

import http.client
import json
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chaoslab.judge import Answer, Judge
from chaoslab.model import NAME, values_in

PATIENCE_S = 120.0
TIMEOUT_S = 60.0
PAUSE_S = 0.05
NEWS_S = 1.0


class Cut(Exception):
    """No answer: the connection broke."""


class Refused(Exception):
    """A gateway has answered with an error."""


class Leaving(Exception):
    """A gateway that is about to go has taken no new request: another one will."""


class Traffic:
    """`clients` threads against one port, as many that connect anew for each request, and as many that ask once at the
    very moment when a swap has returned."""

    def __init__(self, judge: Judge, port: int, clients: int, seed: int) -> None:
        self._judge = judge
        self._port = port
        self._cuts = 0
        self._stop = threading.Event()
        loops = [*[self._keep_asking] * clients, *[self._ask_anew] * clients, *[self._ask_at_once] * clients]
        self._threads = [
            threading.Thread(target=self._connected, args=(loop, Client(index, f"{seed}.{index}", port)), daemon=True)
            for index, loop in enumerate(loops)
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    @contextmanager
    def cuts_expected(self) -> Iterator[None]:
        """While what holds connections is being killed: a client whose connection breaks asks again on another one."""
        self._cuts += 1
        try:
            yield
        finally:
            self._cuts -= 1

    def ask(self, x: NDArray[np.float32], key: str = "", version: str = "") -> tuple[int, NDArray[np.float32]]:
        """One request more, on a connection of its own; raises Cut or Refused. See `Connection`."""
        connection = Connection(self._port, key, version)
        try:
            return self._insist(connection, x)
        finally:
            connection.close()

    def _connected(self, loop: Callable[[Client], None], client: Client) -> None:
        try:
            loop(client)
        finally:
            client.connection.close()

    def _keep_asking(self, client: Client) -> None:
        while not self._stop.is_set():
            self._ask(client)

    def _ask_anew(self, client: Client) -> None:
        while not self._stop.wait(PAUSE_S):
            self._ask(client)
            client.connection.close()

    def _ask_at_once(self, client: Client) -> None:
        seen = -1
        while not self._stop.is_set():
            floor = self._judge.wait_for_news(seen, NEWS_S)
            if floor > seen:
                self._ask(client)
            seen = floor

    def _ask(self, client: Client) -> None:
        x = client.input()
        asked, started = self._judge.asked(), time.monotonic()
        try:
            version, y = self._insist(client.connection, x)
        except (Cut, Refused) as error:
            self._judge.failed(f"after {time.monotonic() - started:.1f} s: {error!r}")
            self._stop.wait(PAUSE_S)
        else:
            answer = Answer(client.number, asked, version, frozenset(values_in(x, y)))
            self._judge.answered(answer, (time.monotonic() - started) * 1e3)

    def _insist(self, connection: Connection, x: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return connection.infer(x)
            except Leaving as error:
                if time.monotonic() > deadline:
                    raise Refused(str(error)) from error
            except Cut as error:
                connection.close()
                if not self._cuts or time.monotonic() > deadline or self._stop.is_set():
                    raise
                self._judge.retried(str(error))
                self._stop.wait(PAUSE_S)


class Client:
    """Its number, its inputs, its connection, on which it says who it is."""

    def __init__(self, number: int, seed: str, port: int) -> None:
        self.number = number
        self.connection = Connection(port, f"client {number}")
        self._rng = random.Random(seed)

    def input(self) -> NDArray[np.float32]:
        return np.array([[self._rng.randint(1, 9)] for _ in range(self._rng.randint(1, 3))], np.float32)


class Connection:
    """One keep-alive connection; asks in V2 with binary tensors.

    `key` is that of the client, who meets one version while a candidate's share stands; `version` is asked for by name.
    """

    def __init__(self, port: int, key: str = "", version: str = "") -> None:
        self._key = {"X-Routing-Key": key} if key else {}
        self._path = f"/v2/models/{NAME}{f'/versions/{version}' * bool(version)}/infer"
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def infer(self, x: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
        """The version that answered, and y; raises Cut, Refused or Leaving.

        A connection that the server has closed while it was idle is opened anew, as every client has to.
        """
        if self._http.sock is not None and select.select([self._http.sock], [], [], 0)[0]:
            self.close()
        try:
            body, headers = _request(x)
            self._http.request("POST", self._path, body, headers | self._key)
            response = self._http.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Cut(repr(error)) from error
        if response.status != 200:
            leaving = response.status == 503 and response.headers["Connection"] == "close"
            kind = Leaving if leaving else Refused
            raise kind(f"{response.status} {content[:300].decode(errors='replace')}")
        split = int(response.headers["Inference-Header-Content-Length"])
        message: Any = json.loads(content[:split])
        y = np.frombuffer(content[split:], np.float32).reshape(message["outputs"][0]["shape"])
        return int(message["model_version"]), y

    def close(self) -> None:
        self._http.close()


def _request(x: NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
    return header + x.tobytes(), headers
