"""The judge: hears what swaps have said, reads every answer, and decides whether it may have been given."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EVIDENCE = 20


@dataclass
class Counts:
    """What a stretch of traffic came to. `lost` is what must be zero.

    `mixed`: more than one version in one answer, or another than it names. `stale`: older than the last swap that had
    returned when the request was sent. `uncommitted`: of a version that was never committed. `back`: during a commit
    one client saw the new version and then the old one, which no promise forbids.
    """

    requests: int = 0
    retried: int = 0
    failed: int = 0
    mixed: int = 0
    stale: int = 0
    uncommitted: int = 0
    back: int = 0
    slowest_ms: float = 0.0
    cuts: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    evidence: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> int:
        return self.failed + self.mixed + self.stale + self.uncommitted

    def blame(self, text: str) -> None:
        if text in self.evidence or len(self.evidence) < EVIDENCE:
            self.evidence[text] += 1


@dataclass(frozen=True)
class Answer:
    """One answer: the epoch that had returned when it was asked for, the version it names, the values in it."""

    client: int
    floor: int
    version: int
    values: frozenset[float]


class Judge:
    """Knows by epoch what was committed; learns from labels which value each version's weights hold. Thread-safe.

    Numbers of aborted swaps are never given out again, a rollback brings an old number back under a new epoch, and a
    swap's reply may be lost: so an answer that cannot be judged yet waits until `heard` says how the swap has ended.
    """

    def __init__(self) -> None:
        self.floor = -1
        self.counts = Counts()
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._value_of: dict[int, float] = {}
        self._epochs_of: defaultdict[int, set[int]] = defaultdict(set)
        self._waiting: list[Answer] = []
        self._seen: dict[int, int] = {}

    def heard(self, status: Mapping[str, Any]) -> None:
        """What a swap has answered, or the weights' status while no swap is in progress: `current` is committed."""
        number, label, epoch = status["current"]["number"], status["current"]["label"], status["epoch"]
        with self._lock:
            if epoch < self.floor:
                self.counts.failed += 1
                self.counts.blame(f"epoch {epoch} after {self.floor} had returned: a commit was lost")
            known = self._value_of.setdefault(number, float(label))
            if known != float(label):
                self.counts.mixed += 1
                self.counts.blame(f"version {number} was {known:g} and is now {label}")
            if number < max(self._seen.values(), default=number):
                self._seen.clear()  # a rollback
            self._epochs_of[number].add(epoch)
            if epoch > self.floor:
                self.floor = epoch
                self._news.notify_all()

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
            if answer.version < self._seen.get(answer.client, answer.version):
                self.counts.back += 1
            self._seen[answer.client] = answer.version
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

    def _decide(self, answer: Answer, *, final: bool) -> None:
        if len(answer.values) != 1:
            self.counts.mixed += 1
            self.counts.blame(f"version {answer.version} answered with {sorted(answer.values)}")
            return
        (value,) = answer.values
        epochs = self._epochs_of.get(answer.version)
        if epochs and max(epochs) >= answer.floor:
            if value != self._value_of[answer.version]:
                self.counts.mixed += 1
                self.counts.blame(f"version {answer.version} is {self._value_of[answer.version]:g}, got {value:g}")
        elif not final:
            self._waiting.append(answer)
        elif epochs:
            self.counts.stale += 1
            self.counts.blame(
                f"version {answer.version} of epoch {max(epochs)} after epoch {answer.floor} had returned"
            )
        else:
            self.counts.uncommitted += 1
            self.counts.blame(f"version {answer.version} (w = {value:g}) was never committed")
