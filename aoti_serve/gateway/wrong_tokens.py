"""Wrong tokens, by the address that sent them: how long it must wait before another one is looked at."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

BURST = 10  # wrong tokens from an address that are looked at, however quickly they come
EACH_S = 1.0  # after those, one in so many seconds
MOST_ADDRESSES = 4096
MOST_HOLDERS = 4096

Holder = tuple[str, str, str]  # an address, what it was let into, and the name of the token


class WrongTokens:
    """Counts wrong tokens. An address that has sent too many is barred, with right ones as well: else the answer to a
    guess would be as quick as ever, and nothing would be slowed down.

    Not barred are holders: tokens that have been right from that address before. So whoever shares an address with one
    that guesses, behind a proxy for one, does not notice; and a bar ends within `EACH_S` of the last guess.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._forgiven: OrderedDict[str, float] = OrderedDict()  # when an address has its whole burst again
        self._holders: OrderedDict[Holder, None] = OrderedDict()

    def barred_s(self, address: str) -> float:
        """Seconds until a token from this address is looked at again; 0 if it is now."""
        if not self._forgiven:
            return 0.0
        forgiven = self._forgiven.get(_network_of(address), 0.0)
        return max(0.0, forgiven - self._clock() - (BURST - 1) * EACH_S)

    def add(self, address: str) -> None:
        """Note a wrong token."""
        network, now = _network_of(address), self._clock()
        self._forgiven[network] = max(now, self._forgiven.pop(network, now)) + EACH_S
        if len(self._forgiven) > MOST_ADDRESSES:
            self._forgiven.popitem(last=False)

    def is_holder(self, holder: Holder) -> bool:
        return holder in self._holders

    def add_holder(self, holder: Holder) -> None:
        """Note a right token."""
        self._holders[holder] = None
        if len(self._holders) > MOST_HOLDERS:
            self._holders.popitem(last=False)


def _network_of(address: str) -> str:
    """The address, or the part of it that a client cannot choose by itself: of IPv6 the first 64 bits."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else parsed.packed[:8].hex()
