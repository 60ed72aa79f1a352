"""Clients that never stop asking, each on a connection of its own, and hand every answer to the judge."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from chaoslab.connections import Answered, Asks, Connection, Cut, GrpcConnection, Leaving, Refused
from chaoslab.judge import Answer, Judge
from chaoslab.model import values_in

PATIENCE_S = 120.0
PAUSE_S = 0.05
NEWS_S = 1.0


class Traffic:
    """`clients` threads against one port, as many that connect anew for each request, and as many that ask once at the
    very moment when a swap has returned; as many over gRPC, if that has a port."""

    def __init__(self, judge: Judge, port: int, clients: int, seed: int, grpc_port: int | None = None) -> None:
        self._judge = judge
        self._port = port
        self._cuts = 0
        self._stop = threading.Event()
        over_http, over_grpc = partial(Connection, port), partial(GrpcConnection, grpc_port or 0)
        kinds: list[tuple[Callable[[Client], None], Callable[[str], Asks]]]
        kinds = [(self._keep_asking, over_http), (self._ask_anew, over_http), (self._ask_at_once, over_http)]
        kinds += [(self._keep_asking, over_grpc)] * (grpc_port is not None)
        self._threads = [
            threading.Thread(
                target=self._connected, args=(loop, Client(index, f"{seed}.{index}", connect)), daemon=True
            )
            for index, (loop, connect) in enumerate(kind for kind in kinds for _ in range(clients))
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

    def ask(self, x: NDArray[np.float32], key: str = "", version: str = "") -> Answered:
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

    def _insist(self, connection: Asks, x: NDArray[np.float32]) -> Answered:
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

    def __init__(self, number: int, seed: str, connect: Callable[[str], Asks]) -> None:
        self.number = number
        self.connection = connect(f"client {number}")
        self._rng = random.Random(seed)

    def input(self) -> NDArray[np.float32]:
        return np.array([[self._rng.randint(1, 9)] for _ in range(self._rng.randint(1, 3))], np.float32)
