"""Which requests meet a candidate. Pure."""

from __future__ import annotations

from hashlib import blake2b

WHOLE = 2**64


def falls_to_candidate(key: str, swap: str, share: float) -> bool:
    """Whether requests of this key are answered by the candidate of this swap.

    A hash decides, in every gateway alike. A key that has fallen to the candidate stays with it while the share grows;
    the candidate of another swap gets other keys.
    """
    if not 0 < share < 1:
        return share >= 1
    digest = blake2b(f"{swap}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * WHOLE


class EvenShare:
    """Says yes to a share of the calls, evenly: after n calls to n times the share, rounded down."""

    def __init__(self) -> None:
        self._due = 0.0

    def take(self, share: float) -> bool:
        self._due += share
        if self._due < 1:
            return False
        self._due -= 1
        return True
