"""Digests of tokens, which are all that a server knows of them."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256


class TokenSet:
    """The tokens that open something, as digests, each with its name. Pickles: Ray carries it to the gateways.

    `key` goes into each digest. It is one for all gateways of an application, so that a token has one name in all of
    them; it is in no log, so that nobody can try tokens against a name. Safe to use while another thread replaces.
    """

    def __init__(self, key: bytes, tokens: Mapping[str, str] | None = None) -> None:
        self.key = key
        self._names: dict[bytes, str] = {}
        self.replace(tokens or {})

    def __len__(self) -> int:
        return len(self._names)

    def replace(self, tokens: Mapping[str, str]) -> bool:
        """Hold these and no others from now on; the values are their names, "" for none. Returns whether that differs.

        What has no name is called by the first digits of its digest.
        """
        digests = {self._digest(token): name for token, name in tokens.items()}
        names = {digest: name or f"token {digest.hex()[:8]}" for digest, name in digests.items()}
        changed, self._names = names != self._names, names
        return changed

    def name_of(self, token: str) -> str | None:
        """The name of a token; None for a wrong one."""
        # The time of the lookup tells nothing of a token: whoever tries some does not know the key.
        return self._names.get(self._digest(token))

    def _digest(self, token: str) -> bytes:
        return sha256(self.key + token.encode()).digest()
