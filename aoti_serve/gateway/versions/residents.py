"""The versions of one model that its replicas hold, as a gateway knows them."""

from __future__ import annotations

from asyncio import Event
from collections.abc import Mapping

from aoti_serve.errors import UnknownVersion
from aoti_serve.weights.labels import RESERVED
from aoti_serve.weights.swap.target import Target

ACTIVE, PREVIOUS, CANDIDATE = RESERVED


class Residents:
    """Follows the target. Lives in the gateway's event loop.

    `current` is the version that answers, `names` has all that can be asked for, by the names that the server itself
    gives them; `labels`, which can be moved, also name what no replica holds. With `keeps_previous` the version before
    stays resident. `moved` is set by the next target that is followed, and then replaced.
    """

    def __init__(self, model: str, *, keeps_previous: bool) -> None:
        self.current = 0
        self.names: Mapping[str, int] = {ACTIVE: 0}
        self.labels: Mapping[str, int] = {}
        self.moved = Event()
        self._model = model
        self._keeps_previous = keeps_previous

    def follow(self, target: Target) -> None:
        committed, staging = target.committed, target.staging
        self.current = committed.version.number
        self.names = {ACTIVE: self.current}
        self.labels = target.labels
        if staging is not None and staging.exposure is not None:
            self.names |= {CANDIDATE: staging.version.number}
        elif staging is None and committed.previous is not None and self._keeps_previous:  # else its memory is taken
            self.names |= {PREVIOUS: committed.previous.number}
        self.moved.set()
        self.moved = Event()

    @property
    def numbers(self) -> list[int]:
        """All that can be asked for, the newest last."""
        return sorted(self.names.values())

    def holds(self, version: int) -> bool:
        return version in self.names.values()

    def asked(self, version: str | None) -> int | None:
        """The number of the version that a request names, by a name of the server's own, a number, or a label.

        None if it names none. Raises UnknownVersion for one that no replica holds.
        """
        if version is None:
            return None
        called = {**self.labels, **{str(number): number for number in self.numbers}, **self.names}
        number = called.get(version)
        if number is None or not self.holds(number):
            raise self.unknown(version if number is None else f"{number}, which is labelled '{version}'")
        return number

    def unknown(self, version: int | str) -> UnknownVersion:
        others = [f"{number} ({name})" for name, number in self.names.items() if name != ACTIVE]
        also = f", and {' and '.join(others)} for those who ask for it" if others else ""
        return UnknownVersion(name=self._model, version=str(version), current=self.current, others=also)
