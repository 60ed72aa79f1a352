"""A store that was opened for writing: the newest one that was opened is the only one that changes anything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from aoti_serve.errors import LedElsewhere, StoreDamaged, StoreFailed, Superseded
from aoti_serve.weights.candidate import Candidate, RolloutRecord
from aoti_serve.weights.labels import LabelChange, VersionLabels
from aoti_serve.weights.store.catalog import BEAT, CANDIDATE, LABELS, ROLLOUT, Catalog
from aoti_serve.weights.store.layout import PIECES
from aoti_serve.weights.store.term import NO_HOME, Term


class OpenedStore(Catalog):
    """Holds a term of a store. Runs in the coordinator, in any of its threads.

    Opening a store takes the next term, and each change compares it. So of all Stores that were opened only the last
    one can change anything, also if the process of an earlier one was stopped halfway and goes on hours later: the
    term is compared and `CURRENT` renamed under one lock, which the kernel takes from a process that has ended.

    At a URI there is no lock, and some network file systems keep locks to each host. There the term is compared right
    before the one put that commits. A process that is stopped between the two, and goes on after another Store was
    opened, still makes that put. It damages no version, and the next commit of the other Store puts it right.

    `term` is the number that members compare.
    """

    _term: Term
    _home = NO_HOME

    def check_term(self) -> None:
        """Raise Superseded if another Store was opened since, LedElsewhere if by another application.

        Raises StoreFailed if TERM cannot be read.
        """
        newest = self.last_term()
        if newest is None or newest.number < self.term:
            raise StoreFailed(path=self.root, detail="its TERM is gone: somebody has emptied it; restart the server")
        if newest[:2] != self._term[:2]:
            newer = newest.number if newest.number > self.term else "another one of that number"
            error = LedElsewhere if self._term.is_elsewhere(newest) else Superseded
            raise error(model=self.model, term=self.term, newer=newer)

    def beat(self) -> None:
        """Leave a sign of life for applications that follow this one. Raises Superseded or StoreFailed."""
        self.write_record(BEAT, f"{time.time():.3f} {self._term.owner}".encode())

    def hold(self, candidate: Candidate | None) -> None:
        """Remember a candidate, or none any more. Raises Superseded or StoreFailed."""
        self.write_record(CANDIDATE, candidate.model_dump_json(indent=1).encode() if candidate else None)

    def roll_out(self, rollout: RolloutRecord | None) -> None:
        """Remember how far a rollout is, or that there is none. Raises Superseded or StoreFailed."""
        self.write_record(ROLLOUT, rollout.model_dump_json().encode() if rollout else None)

    def write_record(self, name: str, content: bytes | None) -> None:
        """Write a small record beside CURRENT, whole or not at all; None erases it.

        Raises Superseded or StoreFailed.
        """
        with self._as_newest():
            self._put_record(name, content)

    def relabel(self, change: LabelChange) -> tuple[VersionLabels, VersionLabels]:
        """Move a label that can be moved; the labels before and after. Reading and writing them is one step.

        Raises LabelMoved, TooManyLabels, UnknownWeightsVersion, Superseded or StoreFailed; nothing has changed then.
        """
        with self._as_newest():
            before = self.labels()
            after = before.changed(change, self.model)
            if change.version:  # 0 is in no file
                self.version(change.version)
            if after != before:
                self._put_record(LABELS, after.model_dump_json(indent=1).encode())
        return before, after

    def drop_lost_labels(self) -> tuple[VersionLabels, Mapping[str, int]]:
        """Take the labels away whose versions are gone; those that are left, and what was dropped.

        Raises Superseded or StoreFailed.
        """
        with self._as_newest():
            labels = self.labels()
            if lost := labels.lost({version.number for version in self.versions()}):
                labels = VersionLabels({name: at for name, at in labels.root.items() if name not in lost})
                self._put_record(LABELS, labels.model_dump_json(indent=1).encode())
        return labels, lost

    def _close_to_earlier_releases(self) -> None:
        """Before the first version is kept in pieces: they would take what it lies in for leftovers."""
        if not self._term.in_pieces:
            with self._as_newest():
                self._term = self._term._replace(in_pieces=True)
                self._place.write_term(self._term.content)
                self._place.sync(".")

    def _erase_damaged_labels(self) -> None:
        try:
            self.labels()
        except StoreDamaged:
            self._place.erase(LABELS)

    def _put_record(self, name: str, content: bytes | None) -> None:
        if content is None:
            self._place.erase(name)
        else:
            self._place.write(name, content)
        self._place.sync(".")

    @contextmanager
    def _as_newest(self) -> Iterator[None]:
        """Hold the lock of the store, if no other Store was opened since."""
        with self._alone():
            self.check_term()
            yield

    def _take_term(self, repair: bool) -> None:
        last = self.last_term(Term(int(time.time())) if repair else None)
        self._term = Term.after(last, bool(self._place.numbers(PIECES)), self._home)
        self.term = self._term.number
        self._place.write_term(self._term.content)
        self._place.sync(".")
        self.check_term()  # another one may have opened it at this moment, and have written last
