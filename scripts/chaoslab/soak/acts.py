"""What goes on during a soak: one thread changes weights, another one causes faults."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import psutil

from chaoslab.deployments import gateways_run
from chaoslab.lab import Lab
from chaoslab.storage import bad_contents
from chaoslab.storm import KINDS, killed, stopped
from chaoslab.trials.candidate import Candidate
from chaoslab.trials.others import decided

MOST_REPLICAS, MOST_GATEWAYS = 4, 3
PAUSE_S = 2.0
BATCH_SIZES = (16, 32, 64)


class Changing:
    """Swaps, rollbacks, candidates and files that must be refused, one after the other."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._acts: dict[Callable[[], object], int] = {
            lab.swap: 6,
            lab.rollback: 1,
            self._candidate: 2,
            self._bad_weights: 1,
        }

    def insist(self, stop: threading.Event) -> None:
        rng = self._lab.rng
        while not stop.wait(rng.uniform(0.0, PAUSE_S)):
            [act] = rng.choices(list(self._acts), list(self._acts.values()))
            try:
                act()
            except AssertionError as error:  # Lost
                self._lab.judge.failed(f"a change of weights: {error}")

    def _candidate(self) -> None:
        decided(self._lab, Candidate(self._lab))

    def _bad_weights(self) -> None:
        lab = self._lab
        content, params = lab.rng.choice(bad_contents(lab.telltales.weights(lab.fresh())))
        outcome = lab.ended(lambda: lab.face.swap(content, "1000000", **params), None)
        if outcome.startswith("committed"):
            lab.judge.failed(f"bad weights were let in: {outcome}")


class Faults:
    """Kills, stops, scaling and redeploys, one after the other, each followed by a commit that everybody made."""

    def __init__(self, lab: Lab) -> None:
        self.caused: Counter[str] = Counter()
        self._lab = lab
        self._last = ""
        self._settings: dict[str, object] = {}
        self._clock = threading.Event()  # never set: a wait for it is a pause

    def insist(self, stop: threading.Event) -> None:
        lab = self._lab
        acts = [*[self._strike] * 4, self._scale, self._scale_gateways, self._redeploy]
        while not stop.wait(lab.rng.uniform(0.0, PAUSE_S)):
            try:
                lab.rng.choice(acts)()
                lab.settle_while_swapping(1)
            except psutil.NoSuchProcess:
                pass  # it ended by itself, after an earlier fault
            except AssertionError as error:  # Lost
                lab.judge.failed(f"after {self._last}: {error}")

    def _strike(self) -> None:
        act, kind = self._lab.rng.choice([killed, stopped]), self._lab.rng.choice(KINDS)
        self._say(f"{act.__name__} {kind}")
        act(self._lab, kind, self._clock)

    def _scale(self) -> None:
        self._lab.replicas = self._lab.rng.randint(1, MOST_REPLICAS)
        self._deploy("replicas scaled")

    def _scale_gateways(self) -> None:
        self._lab.gateways = self._lab.rng.randint(1, MOST_GATEWAYS)
        self._deploy("gateways scaled")
        self._lab.wait_until(lambda: gateways_run(self._lab, self._lab.gateways), f"{self._lab.gateways} gateways")

    def _redeploy(self) -> None:
        """Every process is replaced, as the model's section is another one."""
        self._settings["batching"] = {"max_batch_size": self._lab.rng.choice(BATCH_SIZES), "max_queue_wait_ms": None}
        self._deploy("redeployed")

    def _deploy(self, what: str) -> None:
        self._say(what)
        self._lab.wait_until(self._taken, "configuration that is taken")

    def _taken(self) -> bool:
        """Whether Serve has taken the configuration: its controller may just be on its way."""
        try:
            self._lab.deploy(self._lab.replicas, **self._settings)
        except AssertionError:
            return False
        return True

    def _say(self, what: str) -> None:
        self._last = what
        self.caused[what] += 1
        self._lab.tell(f"  {what}")
