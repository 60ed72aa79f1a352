"""A served model under traffic, swaps that are understood however they end, and the proof of recovery."""

from __future__ import annotations

import itertools
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from chaoslab.face import TOKEN, Events, Face, Status
from chaoslab.judge import Judge
from chaoslab.model import NAME, Telltales, packaged, values_in
from chaoslab.nodes import SEAT, Nodes
from chaoslab.traffic import Connection, Cut, Refused, Traffic

START_S = 120.0
RECOVERY_S = 120.0
POLL_S = 0.1
PROOFS = 12
WORKERS = 3
OBJECT_STORE_MB = 200
REPLICAS = 3


class Lost(AssertionError):
    """A promise was broken."""


class Lab:
    """One cluster, one model, one judge; faults act through it. The swaps in it come one after the other."""

    def __init__(self, folder: Path, telltales: Telltales, nodes: Nodes, clients: int, seed: int) -> None:
        self.folder = folder
        self.telltales = telltales
        self.nodes = nodes
        self.rng = random.Random(seed)
        self.judge = Judge()
        self.face = Face(nodes.port)
        self.events = Events(self.face)
        self.traffic = Traffic(self.judge, nodes.port, clients, seed)
        self.outcomes: Counter[str] = Counter()
        self.notes: list[str] = []
        self.struck = time.monotonic()
        self.replicas = 0
        self.memory: dict[int, int] = {}  # of each replica's process, in bytes, as it was first seen
        self.gateways = 2
        self.tell: Callable[[str], None] = lambda text: None
        self._by_all = 0
        self._values = itertools.count(2)

    def deploy(self, replicas: int, **model: Any) -> None:
        """Put the configuration with so many replicas, and perhaps other settings, on the cluster."""
        self.replicas = replicas
        self.nodes.deploy(self.config(replicas, **model))

    def config(self, replicas: int, **model: Any) -> dict[str, Any]:
        entry = {
            "name": NAME,
            "package": str(self.telltales.package),
            "weights": str(self.folder / "1.safetensors"),
            "store": str(self.folder / "versions"),
            "weights_roots": [str(self.folder)],
            "keep_versions": 30,
            "stage_timeout_s": 30,
            "commit_timeout_s": 3,
            "batching": {"max_queue_wait_ms": None},  # also while every replica is stopped, or dead, nothing is lost
        }
        # On a busy machine whoever is slow must not be taken for dead; but one that is stopped is replaced soon.
        patient = {"health_check_timeout_s": 10, "graceful_shutdown_timeout_s": 10}
        quick = {"health_check_period_s": 1, "health_check_timeout_s": 3, "graceful_shutdown_timeout_s": 5}
        return {
            "applications": [
                {
                    "name": "default",
                    "route_prefix": "/",
                    "import_path": "aoti_serve.app:build",
                    "args": {
                        "models": [entry | model],
                        "gateway": {"http_port": self.nodes.port, "grpc_port": None},
                    },
                    "deployments": [
                        {
                            "name": f"{NAME}-replica",
                            "num_replicas": replicas,
                            "ray_actor_options": {"num_gpus": 1, "num_cpus": 0},
                            "max_surge_percent": 100,
                            **patient,
                        },
                        {
                            "name": f"{NAME}-coordinator",
                            "ray_actor_options": {"num_cpus": 0, "resources": {SEAT: 0.01}},
                            **quick,
                        },
                        {
                            "name": "gateway",
                            "num_replicas": self.gateways,
                            "ray_actor_options": {"num_cpus": 0, "resources": {SEAT: 0.01}},
                            **patient,
                        },
                    ],
                }
            ]
        }

    def swap(self, **params: str) -> str:
        """A swap to a value never used before; how it ended: committed, refused or unknown."""
        value = self.fresh()
        return self.ended(lambda: self.face.swap(self.telltales.weights(value), str(value), **params), str(value))

    def fresh(self) -> int:
        """A value that no weights have held yet."""
        return next(self._values)

    def rollback(self) -> str:
        return self.ended(self.face.rollback, None)

    def ended(self, change: Callable[[], httpx.Response], label: str | None) -> str:
        """Make a change; tell the judge what came of it, also where the reply was lost."""
        try:
            response = change()
        except httpx.HTTPError as error:
            self.notes.append(repr(error))
            outcome = self._learnt(None, label)
        else:
            if response.status_code == 200:
                outcome = self._committed(response.json())
            else:
                self.notes.append(f"{response.status_code} {response.text[:300]}")
                outcome = self._learnt(response, label)
        self.outcomes[outcome] += 1
        self.judge.decide()
        return outcome

    def _committed(self, status: Status) -> str:
        self.judge.heard(status)
        self._by_all += len(status["replicas"]) == self.replicas
        return "committed"

    def _learnt(self, response: httpx.Response | None, label: str | None) -> str:
        """What came of a change that did not answer 200."""
        before = self.judge.floor
        status = self.quiet()
        self.judge.heard(status)
        refused = response is not None and response.text.startswith('{"error"') and response.status_code != 503
        if status["epoch"] <= before:  # less is a lost commit, which the judge has noted
            return "refused" if refused else "came to nothing"
        if label is not None and status["current"]["label"] != label:
            self.judge.failed(f"nobody asked for {status['current']}, sent {label}")
        if refused:
            self.judge.failed(f"refused, and committed all the same: {self.notes[-1]}")
        return "committed, reply lost"

    def quiet(self, timeout: float = RECOVERY_S) -> Status:
        """The status as soon as no swap is in progress."""
        deadline = time.monotonic() + timeout
        while True:
            with suppress(httpx.HTTPError):
                status = self.face.status()
                if status["swap"] is None:
                    return status
            if time.monotonic() > deadline:
                raise Lost(f"no status without a swap in {timeout:g} s")
            time.sleep(POLL_S)

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
        stop = threading.Event()

        def insist() -> None:
            while not stop.is_set():
                if self.rng.random() < 0.2:
                    self.rollback()
                else:
                    self.swap()

        thread = threading.Thread(target=insist)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def settle_while_swapping(self, swaps: int = 2) -> None:
        """Return once so many swaps more have been committed by as many replicas as there should be, new ones too."""
        limit, wanted = START_S + RECOVERY_S, self._by_all + swaps
        deadline = time.monotonic() + limit
        while self._by_all < wanted:
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
def laboratory(package: Future[Telltales], *, clients: int = 3, seed: int = 0, keep: bool = False) -> Iterator[Lab]:
    """Everything up on an empty store, under traffic; everything down after. `keep` leaves Ray's logs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos")))
        env = {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")}
        env["AOTI_SERVE_ADMIN_TOKEN"] = TOKEN
        nodes = Nodes(WORKERS, OBJECT_STORE_MB, env, keep=keep)
        stack.enter_context(nodes.running())
        telltales = package.result()
        (folder / "1.safetensors").write_bytes(telltales.weights(1))
        lab = Lab(folder, telltales, nodes, clients, seed)
        lab.deploy(REPLICAS)
        lab.wait_ready()
        lab.judge.heard(lab.quiet())
        stack.enter_context(lab.traffic.running())
        stack.enter_context(lab.events.running())
        yield lab
