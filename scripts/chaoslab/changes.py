"""Changes of weights that are understood however they end, and a judge who hears of each."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import httpx

from chaoslab.face import Face, Status
from chaoslab.judge import Judge
from chaoslab.model import Telltales

RECOVERY_S = 120.0
POLL_S = 0.1


class Lost(AssertionError):
    """A promise was broken."""


class Changes:
    """The changes of one model's weights, one after the other. `outcomes` counts how they ended, `notes` say why."""

    def __init__(self, telltales: Telltales, face: Face, judge: Judge) -> None:
        self.telltales = telltales
        self.face = face
        self.judge = judge
        self.outcomes: Counter[str] = Counter()
        self.notes: list[str] = []
        self.replicas = 0
        self.by_all = 0  # commits by as many replicas as there should be
        self._values = itertools.count(2)

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
        self.by_all += len(status["replicas"]) == self.replicas
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
