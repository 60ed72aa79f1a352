"""Clients that never stop asking, each on a connection of its own, and hand every answer to the judge."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chaoslab.judge import Answer, Judge
from chaoslab.model import NAME, values_in

PATIENCE_S = 120.0
TIMEOUT_S = 60.0
PAUSE_S = 0.05


class Cut(Exception):
    """No answer of a gateway: the connection broke, or the ingress answered in its stead."""


class Refused(Exception):
    """A gateway has answered with an error."""


class Traffic:
    """`clients` threads against one port."""

    def __init__(self, judge: Judge, port: int, clients: int, seed: int) -> None:
        self._judge = judge
        self._port = port
        self._cuts = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(index, random.Random(f"{seed}.{index}")), daemon=True)
            for index in range(clients)
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

    def ask(self, x: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
        """One request more, on a connection of its own; raises Cut or Refused."""
        connection = Connection(self._port)
        try:
            return self._insist(connection, x)
        finally:
            connection.close()

    def _ask(self, client: int, rng: random.Random) -> None:
        connection = Connection(self._port)
        while not self._stop.is_set():
            x = np.array([[rng.randint(1, 9)] for _ in range(rng.randint(1, 3))], np.float32)
            floor, started = self._judge.floor, time.monotonic()
            try:
                version, y = self._insist(connection, x)
            except (Cut, Refused) as error:
                self._judge.failed(f"after {time.monotonic() - started:.1f} s: {error!r}")
                self._stop.wait(PAUSE_S)
            else:
                answer = Answer(client, floor, version, frozenset(values_in(x, y)))
                self._judge.answered(answer, (time.monotonic() - started) * 1e3)
        connection.close()

    def _insist(self, connection: Connection, x: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return connection.infer(x)
            except Cut as error:
                connection.close()
                if not self._cuts or time.monotonic() > deadline or self._stop.is_set():
                    raise
                self._judge.retried(str(error))
                self._stop.wait(PAUSE_S)


class Connection:
    """One keep-alive connection; asks in V2 with binary tensors."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def infer(self, x: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
        """The version that answered, and y; raises Cut or Refused."""
        try:
            self._http.request("POST", f"/v2/models/{NAME}/infer", *_request(x))
            response = self._http.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Cut(repr(error)) from error
        if response.status != 200:
            kind = Refused if content.startswith(b'{"error"') else Cut
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
