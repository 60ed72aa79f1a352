"""A served model under traffic, swaps that are understood however they end, and the proof of recovery."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from chaoslab.beside import going_on
from chaoslab.changes import POLL_S, RECOVERY_S, Changes, Lost
from chaoslab.configuration import configuration, model_entry
from chaoslab.connections import Connection, Cut, Refused
from chaoslab.face import TOKEN, Events, Face, Status
from chaoslab.judge import Judge
from chaoslab.model import Telltales, packaged, values_in
from chaoslab.nodes import Nodes, free_port
from chaoslab.traffic import Traffic

START_S = 120.0
PROOFS = 12
WORKERS = 3
OBJECT_STORE_MB = 200
REPLICAS = 3


class Lab(Changes):
    """One cluster, one model, one judge; faults act through it. With `grpc` there are clients that speak it, too."""

    def __init__(
        self, folder: Path, telltales: Telltales, nodes: Nodes, clients: int, seed: int, *, grpc: bool = False
    ) -> None:
        super().__init__(telltales, Face(nodes.port), Judge())
        self.folder = folder
        self.nodes = nodes
        self.rng = random.Random(seed)
        self.events = Events(self.face)
        self.grpc_port = free_port() if grpc else None
        self.traffic = Traffic(self.judge, nodes.port, clients, seed, self.grpc_port)
        self.struck = time.monotonic()
        self.memory: dict[int, int] = {}  # of each replica's process, in bytes, as it was first seen
        self.gateways = 2
        self.tell: Callable[[str], None] = lambda text: None

    def deploy(self, replicas: int, **model: Any) -> None:
        """Put the configuration with so many replicas, and perhaps other settings, on the cluster."""
        self.replicas = replicas
        entry = model_entry(self.folder, self.telltales.package) | model
        gateway = {"http_port": self.nodes.port, "grpc_port": self.grpc_port}
        self.nodes.deploy(configuration(entry, gateway, replicas, self.gateways))

    def wait_until(self, holds: Callable[[], bool], what: str, timeout: float = RECOVERY_S) -> None:
        """Raises Lost if it never does."""
        deadline = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > deadline:
                raise Lost(f"no {what} in {timeout:g} s")
            time.sleep(POLL_S)

    @contextmanager
    def swapping(self) -> Iterator[None]:
        """Swap after swap in the background, with a rollback now and then."""

        def insist(stop: threading.Event) -> None:
            while not stop.is_set():
                if self.rng.random() < 0.2:
                    self.rollback()
                else:
                    self.swap()

        with going_on(insist):
            yield

    def settle_while_swapping(self, swaps: int = 2) -> None:
        """Return once so many swaps more have been committed by as many replicas as there should be, new ones too."""
        limit, wanted = START_S + RECOVERY_S, self.by_all + swaps
        deadline = time.monotonic() + limit
        while self.by_all < wanted:
            if time.monotonic() > deadline:
                raise Lost(f"{swaps} swaps by {self.replicas} replicas were not committed in {limit:g} s")
            time.sleep(POLL_S)

    def strike(self, act: Callable[[], object]) -> None:
        """Cause the fault; from now on recovery is timed."""
        self.struck = time.monotonic()
        act()

    def settle(self, timeout: float = RECOVERY_S) -> float:
        """Return once everyone serves one version, whole, and it is the committed one; raises Lost if never.

        The seconds since the fault was caused.
        """
        deadline = time.monotonic() + timeout
        problem = "no status"
        while time.monotonic() < deadline:
            try:
                problem = self._unsettled(self.face.status())
                if not problem:
                    seconds = time.monotonic() - self.struck
                    self._prove()
                    return seconds
            except httpx.HTTPError as error:
                problem = repr(error)
            time.sleep(POLL_S)
        raise Lost(f"not on one version after {timeout:g} s: {problem}")

    def _unsettled(self, status: Status) -> str:
        current, receipts = status["current"], status["replicas"]
        held = [(receipt["epoch"], receipt["version"], receipt["digest"]) for receipt in receipts]
        wanted = [(status["epoch"], current["number"], current["digest"])] * self.replicas
        if status["swap"] is not None or held != wanted:
            return f"swap {status['swap']}, receipts {held}, wanted {wanted}"
        if not all(psutil.pid_exists(receipt["pid"]) for receipt in receipts):
            return "a receipt of a process that has died"
        self.judge.heard(status)
        self.judge.decide()
        return ""

    def _prove(self) -> None:
        """Answers on connections of their own agree with the status."""
        status = self.quiet()
        candidate = status["candidate"]
        answering = [status["current"], *([candidate["version"]] if candidate and candidate["share"] else [])]
        self.prove(answering)

    def prove(self, versions: Sequence[Status], asked: str = "") -> None:
        """One of these versions answers, with its own weights, whoever asks; for `asked` by name, if that is given."""
        want = [(version["number"], {float(version["label"])}) for version in versions]
        x = np.array([[3.0], [5.0]], np.float32)
        for turn in range(PROOFS):
            version, y = self.traffic.ask(x, f"proof {turn}", asked)
            if (version, values_in(x, y)) not in want:
                raise Lost(f"answered {version} with {values_in(x, y)}, and not one of {want}")

    def wait_ready(self, timeout: float = START_S) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError, Cut, Refused):
                if len(self.face.status()["replicas"]) == self.replicas:
                    Connection(self.nodes.port).infer(np.ones((1, 1), np.float32))
                    return
            time.sleep(POLL_S)
        raise Lost(f"not ready in {timeout:g} s")

    def replica_pids(self) -> list[int]:
        return [receipt["pid"] for receipt in self.face.status()["replicas"]]


@contextmanager
def compiled(megabytes: float) -> Iterator[Future[Telltales]]:
    """The package, in a folder of its own; it may still be on its way, while a cluster starts."""
    with tempfile.TemporaryDirectory(prefix="chaos") as folder, ThreadPoolExecutor(1) as compiler:
        yield compiler.submit(packaged, Path(folder), megabytes)


@contextmanager
def laboratory(
    package: Future[Telltales], *, clients: int = 3, seed: int = 0, keep: bool = False, grpc: bool = False
) -> Iterator[Lab]:
    """Everything up on an empty store, under traffic; everything down after. `keep` leaves Ray's logs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos")))
        env = {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")}
        env["AOTI_SERVE_ADMIN_TOKEN"] = TOKEN
        nodes = Nodes(WORKERS, OBJECT_STORE_MB, env, keep=keep)
        stack.enter_context(nodes.running())
        telltales = package.result()
        (folder / "1.safetensors").write_bytes(telltales.weights(1))
        lab = Lab(folder, telltales, nodes, clients, seed, grpc=grpc)
        lab.deploy(REPLICAS)
        lab.wait_ready()
        lab.judge.heard(lab.quiet())
        stack.enter_context(lab.traffic.running())
        stack.enter_context(lab.events.running())
        yield lab
