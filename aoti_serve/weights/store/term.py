"""The terms of coordinators: which of them has opened a store last."""

from __future__ import annotations

from typing import NamedTuple
from uuid import uuid4

OWNER_DIGITS = 32


class Term(NamedTuple):
    """The coordinator that has opened a store last. `number` grows with each opening.

    `owner` is random: two that open a store at the same moment, where no lock keeps them apart, take the same number
    and still differ. It is "" in files of earlier releases.
    """

    number: int
    owner: str = ""

    @classmethod
    def after(cls, last: Term | None) -> Term:
        """The next term, with an owner of its own."""
        return cls((last.number if last else 0) + 1, uuid4().hex)

    @classmethod
    def parse(cls, content: bytes) -> Term:
        """Read what `content` has written, or the bare number of an earlier release. Raises ValueError."""
        number, _, owner = content.decode("ascii").partition(" ")
        if owner and (len(owner) != OWNER_DIGITS or not owner.isalnum()):
            raise ValueError(f"no owner: {owner!r}")
        return cls(int(number), owner)

    @property
    def content(self) -> bytes:
        """The bytes of TERM: always of one length, so that a full disk still lets them be written in place."""
        return f"{self.number:020d} {self.owner}".encode("ascii")
