"""The versions of one model that its replicas hold, as a gateway knows them."""

from __future__ import annotations

from collections.abc import Mapping

from aoti_serve.errors import UnknownVersion
from aoti_serve.weights.swap.target import Target

ACTIVE, PREVIOUS, CANDIDATE = "active", "previous", "candidate"


class Residents:
    """Follows the target. Lives in the gateway's event loop.

    `current` is the version that answers, `names` has all that can be asked for, by the names that the server itself
    gives them. With `keeps_previous` the version before stays resident.
    """

    def __init__(self, model: str, *, keeps_previous: bool) -> None:
        self.current = 0
        self.names: Mapping[str, int] = {ACTIVE: 0}
        self._model = model
        self._keeps_previous = keeps_previous

    def follow(self, target: Target) -> None:
        committed, staging = target.committed, target.staging
        self.current = committed.version.number
        self.names = {ACTIVE: self.current}
        if staging is not None and staging.exposure is not None:
            self.names |= {CANDIDATE: staging.version.number}
        elif staging is None and committed.previous is not None and self._keeps_previous:  # else its memory is taken
            self.names |= {PREVIOUS: committed.previous.number}

    @property
    def numbers(self) -> list[int]:
        """All that can be asked for, the newest last."""
        return sorted(self.names.values())

    def holds(self, version: int) -> bool:
        return version in self.names.values()

    def asked(self, version: str | None) -> int | None:
        """The number of the version that a request names; None if it names none. Raises UnknownVersion."""
        if version is None:
            return None
        number = next((number for number in self.numbers if str(number) == version), self.names.get(version))
        if number is None:
            raise self.unknown(version)
        return number

    def unknown(self, version: int | str) -> UnknownVersion:
        others = [f"{number} ({name})" for name, number in self.names.items() if name != ACTIVE]
        also = f"; who asks for it gets {' or '.join(others)}" if others else ""
        return UnknownVersion(name=self._model, version=str(version), current=self.current, others=also)
