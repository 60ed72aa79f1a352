"""The terms of coordinators: which of them has opened a store last."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple
from uuid import uuid4

OWNER_DIGITS = 32
HOME_DIGITS = 16
NO_HOME = "0" * HOME_DIGITS  # of an operator's command, which opens a store for a moment
MARK = " pieces"


class Term(NamedTuple):
    """The coordinator that has opened a store last. `number` grows with each opening.

    `owner` is random: two that open a store at the same moment, where no lock keeps them apart, take the same number
    and still differ. Its first digits are its `home`, the application of that coordinator; files of earlier releases
    have random ones there as well, or no owner at all. `in_pieces` is set once a version is kept in pieces: an earlier
    release, which would remove what they lie in, cannot read it then, and opens no such store.
    """

    number: int
    owner: str = ""
    in_pieces: bool = False

    @classmethod
    def after(cls, last: Term | None, in_pieces: bool = False, home: str = NO_HOME) -> Term:
        """The next term, with an owner of its own."""
        return cls((last.number if last else 0) + 1, home + uuid4().hex[HOME_DIGITS:], in_pieces)

    @classmethod
    def parse(cls, content: bytes) -> Term:
        """Read what `content` has written, or the bare number of an earlier release. Raises ValueError."""
        number, _, rest = content.decode("ascii").partition(" ")
        owner = rest.removesuffix(MARK)
        if owner and (len(owner) != OWNER_DIGITS or not owner.isalnum()):
            raise ValueError(f"no owner: {owner!r}")
        return cls(int(number), owner, rest != owner)

    @property
    def home(self) -> str:
        return self.owner[:HOME_DIGITS]

    def is_elsewhere(self, newest: Term) -> bool:
        """Whether `newest` was taken by another application than this one, and not by an operator's command."""
        return self.home != NO_HOME and newest.home not in (NO_HOME, self.home)

    @property
    def content(self) -> bytes:
        """The bytes of TERM: of one length but for the mark, so that a full disk lets them be written in place."""
        return f"{self.number:020d} {self.owner}{MARK if self.in_pieces else ''}".encode("ascii")


def home_of(cluster: str, application: str) -> str:
    """The home of the coordinators of one application of a cluster, however often they start."""
    return sha256(f"{cluster}\0{application}".encode()).hexdigest()[:HOME_DIGITS]
