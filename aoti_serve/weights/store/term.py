"""The terms of coordinators: which of them has opened a store last."""

from __future__ import annotations

from typing import NamedTuple
from uuid import uuid4

OWNER_DIGITS = 32
MARK = " pieces"


class Term(NamedTuple):
    """The coordinator that has opened a store last. `number` grows with each opening.

    `owner` is random: two that open a store at the same moment, where no lock keeps them apart, take the same number
    and still differ. It is "" in files of earlier releases. `in_pieces` is set once a version is kept in pieces: an
    earlier release, which would remove what they lie in, cannot read it then, and opens no such store.
    """

    number: int
    owner: str = ""
    in_pieces: bool = False

    @classmethod
    def after(cls, last: Term | None, in_pieces: bool = False) -> Term:
        """The next term, with an owner of its own."""
        return cls((last.number if last else 0) + 1, uuid4().hex, in_pieces)

    @classmethod
    def parse(cls, content: bytes) -> Term:
        """Read what `content` has written, or the bare number of an earlier release. Raises ValueError."""
        number, _, rest = content.decode("ascii").partition(" ")
        owner = rest.removesuffix(MARK)
        if owner and (len(owner) != OWNER_DIGITS or not owner.isalnum()):
            raise ValueError(f"no owner: {owner!r}")
        return cls(int(number), owner, rest != owner)

    @property
    def content(self) -> bytes:
        """The bytes of TERM: of one length but for the mark, so that a full disk lets them be written in place."""
        return f"{self.number:020d} {self.owner}{MARK if self.in_pieces else ''}".encode("ascii")
