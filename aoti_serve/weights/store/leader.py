"""Leadership of a store: of all that have opened it, only the last may change it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from aoti_serve.errors import StoreDamaged, StoreFailed, Superseded
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.term import Term

T = TypeVar("T")


class StoreLeader(Catalog):
    """A catalog with a term. Opening a store takes the next term, and each change compares it.

    One that was opened before can change nothing, also if its process was stopped halfway through and goes on hours
    later: it compares the term and renames `CURRENT` under one lock, which the kernel takes from the dead.

    At a URI there is no lock, and some network file systems keep locks to each host. Two that open such a store at the
    same moment get one number, but the owner in TERM tells them apart: the last to write it leads. There the term is
    compared right before the one put that commits. A coordinator that is stopped between the two, followed, and
    continued, still makes that put. The follower goes on with what it knows, and its next commit puts things right; if
    it restarts before that, it finds the late put, and a swap that had returned is lost. A late put removes nothing and
    damages no version.
    """

    _term: Term

    @property
    def term(self) -> int:
        """The number of our term, which members compare."""
        return self._term.number

    def check_term(self) -> None:
        """Raise Superseded if the store was opened by another one since."""
        newest = self.last_term()
        if newest is None or newest.number < self.term:
            raise StoreFailed(path=self.root, detail="its TERM is gone: somebody has emptied it; restart the server")
        if newest != self._term:
            newer = newest.number if newest.number > self.term else "another one of that number"
            raise Superseded(model=self.model, term=self.term, newer=newer)

    def _take_term(self, repair: bool) -> None:
        """With `repair`, also if TERM is damaged: then from the seconds since 1970, which no count of terms reaches."""
        last = read_or(self.last_term, Term(int(time.time())) if repair else None)
        self._term = Term.after(last)
        self._place.write_term(self._term.content)
        self._place.sync(".")
        self.check_term()  # another one may have opened it at this moment, and have written last

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._guarded(), self._place.alone():
            yield


def read_or(record: Callable[[], T], otherwise: T) -> T:
    """`record()`; if it is damaged, `otherwise`, unless that is None."""
    try:
        return record()
    except StoreDamaged:
        if otherwise is None:
            raise
        return otherwise
