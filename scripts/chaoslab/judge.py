"""The judge: hears what swaps have said, reads every answer, and decides whether it may have been given."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from chaoslab.counts import Counts


class Asked(NamedTuple):
    """The moment at which a request was sent: what had returned by then.

    `epoch` is that of the last commit, `withdrawals` counts candidates that were withdrawn, and `share` names the share
    of a candidate that stood, in which `period` of it.
    """

    epoch: int
    withdrawals: int = 0
    share: str = ""
    period: int = 0


@dataclass
class Offer:
    """A candidate. It may answer what was asked while `epoch` was the last commit, and before it was `withdrawn`."""

    epoch: int
    withdrawn: float = math.inf

    def stood(self, asked: Asked) -> bool:
        return asked.epoch <= self.epoch and asked.withdrawals < self.withdrawn


@dataclass(frozen=True)
class Answer:
    """One answer: the moment when it was asked for, the version it names, the values in it."""

    client: int
    asked: Asked
    version: int
    values: frozenset[float]


class Judge:
    """Knows by epoch what was committed; learns from labels which value each version's weights hold. Thread-safe.

    Numbers of aborted swaps are never given out again, a rollback brings an old number back under a new epoch, and a
    swap's reply may be lost: so an answer that cannot be judged yet waits until `heard` says how the swap has ended.
    A candidate answers before anybody has said its number, so it is known by its value, which no other weights hold.
    """

    def __init__(self) -> None:
        self.floor = -1
        self.counts = Counts()
        self.timed: Callable[[float], object] = lambda milliseconds: None  # hears how long each answer took
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._value_of: dict[int, float] = {}
        self._epochs_of: defaultdict[int, set[int]] = defaultdict(set)
        self._waiting: list[Answer] = []
        self._seen: dict[int, int] = {}
        self._offers: dict[float, Offer] = {}
        self._withdrawals = 0
        self._share = ""
        self._period = 0
        self._kept: dict[tuple[str, int], int] = {}

    def asked(self) -> Asked:
        """This moment, for a request that is about to be sent."""
        with self._lock:
            return Asked(self.floor, self._withdrawals, self._share, self._period)

    def offered(self, value: float) -> None:
        """From now on weights of this value may answer as a candidate; until another commit at the latest."""
        with self._lock:
            self._offers[value] = Offer(self.floor)

    def withdrawn(self, value: float) -> None:
        """A withdrawal has returned: what is asked from now on must not be answered with this value."""
        with self._lock:
            self._withdrawals += 1
            self._offers[value].withdrawn = self._withdrawals
            self._seen.clear()

    @contextmanager
    def standing(self, share: str) -> Iterator[None]:
        """Nothing changes inside, so each client keeps its version: also the one of earlier times with this `share`."""
        with self._lock:
            self._share, self._period = share, self._period + 1
        try:
            yield
        finally:
            with self._lock:
                self._share = ""

    def heard(self, status: Mapping[str, Any]) -> None:
        """What a swap has answered, or the weights' status while no swap is in progress: `current` is committed."""
        number, label, epoch = status["current"]["number"], status["current"]["label"], status["epoch"]
        with self._lock:
            if epoch < self.floor:
                self.counts.failed += 1
                self.counts.blame(f"epoch {epoch} after {self.floor} had returned: a commit was lost")
            self._name(number, label)
            if candidate := status.get("candidate"):
                self._name(candidate["version"]["number"], candidate["version"]["label"])
            if number < max(self._seen.values(), default=number):
                self._seen.clear()  # a rollback
            self._epochs_of[number].add(epoch)
            if epoch > self.floor:
                self.floor = epoch
                self._news.notify_all()

    def number_of(self, value: float) -> int | None:
        """The version whose weights hold this value, if anybody has said it or answered with it."""
        with self._lock:
            return next((number for number, known in self._value_of.items() if known == value), None)

    def wait_for_news(self, seen: int, timeout: float) -> int:
        """The floor, as soon as it is above `seen`, or after a while."""
        with self._news:
            self._news.wait_for(lambda: self.floor > seen, timeout)
            return self.floor

    def decide(self) -> None:
        """No swap is in progress, and all that was committed has been heard: every answer can be judged."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            for answer in waiting:
                self._decide(answer, final=True)

    def answered(self, answer: Answer, milliseconds: float) -> None:
        with self._lock:
            self.counts.requests += 1
            self.counts.versions[answer.version] += 1
            self.counts.slowest_ms = max(self.counts.slowest_ms, milliseconds)
            self.timed(milliseconds)
            if answer.version < self._seen.get(answer.client, answer.version):
                self.counts.back += 1
            self._seen[answer.client] = answer.version
            self._check_kept(answer)
            self._decide(answer, final=False)

    def failed(self, text: str) -> None:
        with self._lock:
            self.counts.requests += 1
            self.counts.failed += 1
            self.counts.blame(text)

    def retried(self, why: str) -> None:
        with self._lock:
            self.counts.retried += 1
            self.counts.cuts[why] += 1

    def taken(self) -> Counts:
        """The counts since the last call."""
        with self._lock:
            counts, self.counts = self.counts, Counts()
            return counts

    def _name(self, number: int, label: str) -> None:
        known = self._value_of.setdefault(number, float(label))
        if known != float(label):
            self.counts.mixed += 1
            self.counts.blame(f"version {number} was {known:g} and is now {label}")

    def _check_kept(self, answer: Answer) -> None:
        share = answer.asked.share
        if not share or (share, answer.asked.period) != (self._share, self._period):
            return
        kept = self._kept.setdefault((share, answer.client), answer.version)
        if kept != answer.version:
            self.counts.moved += 1
            self.counts.blame(
                f"client {answer.client} had version {kept}, and got {answer.version} while {share} stood"
            )

    def _decide(self, answer: Answer, *, final: bool) -> None:
        if len(answer.values) != 1:
            self.counts.mixed += 1
            self.counts.blame(f"version {answer.version} answered with {sorted(answer.values)}")
            return
        (value,) = answer.values
        epochs = self._epochs_of.get(answer.version, set())
        offer = self._offers.get(value)
        if max(epochs, default=-1) >= answer.asked.epoch or (offer is not None and offer.stood(answer.asked)):
            known = self._value_of.setdefault(answer.version, value)
            if value != known:
                self.counts.mixed += 1
                self.counts.blame(f"version {answer.version} is {known:g}, got {value:g}")
        elif not final:
            self._waiting.append(answer)
        else:
            self._blame(answer, value, epochs)

    def _blame(self, answer: Answer, value: float, epochs: set[int]) -> None:
        if epochs:
            self.counts.stale += 1
            text = f"version {answer.version} of epoch {max(epochs)} after epoch {answer.asked.epoch} had returned"
        elif value in self._offers:
            self.counts.uncommitted += 1
            text = f"candidate {answer.version} (w = {value:g}) answered when it was withdrawn, or another committed"
        else:
            self.counts.uncommitted += 1
            text = f"version {answer.version} (w = {value:g}) was never committed"
        self.counts.blame(text)
