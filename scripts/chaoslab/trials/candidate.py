"""One candidate of the lab: what is asked about it, how that ended, and that nothing of it is left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np

from aoti_serve.weights.store.catalog import CANDIDATE, ROLLOUT
from chaoslab.changes import POLL_S, Lost
from chaoslab.connections import Refused
from chaoslab.face import Status
from chaoslab.lab import PROOFS, Lab

SPREAD = 30  # answers, by when every gateway has heard of a share
SEEN = 60  # answers that show whether clients keep their versions
LEFT_S = 15.0


class Candidate:
    """Weights of a value never used before. Each method is one call of the weights API, and answers how it ended:
    as it should, `refused`, or `reply lost`.
    """

    def __init__(self, lab: Lab) -> None:
        self.value = lab.fresh()
        self._lab = lab
        self._share = ""

    def hold(self, **exposure: str) -> str:
        self._share = f"{self.value} at {exposure}"
        return self._stage(candidate="true", **exposure)

    def roll_out(self, **plan: Any) -> str:
        return self._stage(rollout=json.dumps(plan))

    def promote(self) -> str:
        return self._ended(self._lab.face.promote, "promoted")

    def withdraw(self) -> str:
        return self._ended(self._lab.face.withdraw, "withdrawn")

    def falls(self) -> None:
        """It is withdrawn by itself, which the status says when nobody answers with it any more; raises Lost."""

        def fallen() -> bool:
            status = self._lab.quiet()
            return status["candidate"] is None and status["last"]["outcome"] == "withdrawn"

        self._lab.wait_until(fallen, f"end of candidate {self.value}, which a replica could not stage")
        self._lab.judge.withdrawn(self.value)

    def is_out(self) -> bool:
        return self._is(self._lab.quiet()["candidate"] or {})

    def is_current(self) -> bool:
        return self._is({"version": self._lab.quiet()["current"]})

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Clients keep their versions inside; they do so for some time already when this begins."""
        self._answers(SPREAD)
        with self._lab.judge.standing(self._share):
            yield
            self._answers(SEEN)

    def prove_out(self) -> None:
        """Who asks for it by name gets it, from every gateway."""
        self._lab.prove([self._lab.quiet()["candidate"]["version"]], "candidate")

    def _answers(self, count: int) -> None:
        wanted = self._lab.judge.counts.requests + count
        self._lab.wait_until(lambda: self._lab.judge.counts.requests >= wanted, f"{count} answers")

    def _is(self, status: Status) -> bool:
        return bool(status) and status["version"]["label"] == str(self.value)

    def _stage(self, **params: str) -> str:
        lab = self._lab
        lab.judge.offered(self.value)
        content = lab.telltales.weights(self.value)
        return self._ended(lambda: lab.face.swap(content, str(self.value), **params), "candidate")

    def _ended(self, change: Callable[[], httpx.Response], well: str) -> str:
        try:
            response = change()
        except httpx.HTTPError as error:
            outcome, note = "reply lost", repr(error)
        else:
            outcome, note = _outcome(response, well), f"{response.status_code} {response.text[:300]}"
            if outcome == well:
                self._lab.judge.heard(response.json())
        if outcome == "withdrawn":
            self._lab.judge.withdrawn(self.value)
        elif outcome != well:
            self._lab.notes.append(f"{well}: {note}")
        self._lab.outcomes[outcome] += 1
        return outcome


def _outcome(response: httpx.Response, well: str) -> str:
    if response.status_code == 200:
        return well
    return "refused" if response.status_code != 503 else "reply lost"


def nothing_left(lab: Lab, candidate: Candidate) -> None:
    """No candidate, no record of one or of a rollout, and nobody answers with it if it was not committed."""
    deadline = time.monotonic() + LEFT_S
    while left := _left(lab):
        if time.monotonic() > deadline:
            raise Lost(f"{left} is left behind")
        time.sleep(POLL_S)
    status = lab.quiet()
    number = lab.judge.number_of(candidate.value)
    if number is not None and number not in {
        each["number"] for each in (status["current"], status["previous"]) if each
    }:
        for _ in range(PROOFS):
            _answers_nobody(lab, number)


def _left(lab: Lab) -> str:
    status = lab.quiet()
    if status["candidate"]:
        return f"the candidate {status['candidate']}"
    if status["rollout"] and status["rollout"]["outcome"] is None:
        return f"the rollout {status['rollout']}"
    records = [name for name in (CANDIDATE, ROLLOUT) if (lab.folder / "versions" / name).exists()]
    return f"the record {', '.join(records)}" if records else ""


def _answers_nobody(lab: Lab, number: int) -> None:
    try:
        version, y = lab.traffic.ask(np.ones((1, 1), np.float32), version=str(number))
    except Refused as refusal:
        if not str(refusal).startswith("404"):
            raise
    else:
        raise Lost(f"version {number} is neither committed nor a candidate, and answered: {version}, {y}")
