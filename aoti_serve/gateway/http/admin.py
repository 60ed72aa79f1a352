"""The guard of the weights API."""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

from aoti_serve.errors import AdminClosed, Unauthorized


class Guard:
    """Admits requests whose bearer token has the configured digest. Admits none if no digest is configured."""

    def __init__(self, token_digest: str | None) -> None:
        self._token_digest = token_digest

    @property
    def holder(self) -> str:
        """The name of the token in the audit log: the first digits of its digest, whose salt is not in the log."""
        return f"token {(self._token_digest or '').rpartition('$')[2][:8]}"

    def check(self, authorization: str | None) -> None:
        """Check the Authorization header. Raises AdminClosed or Unauthorized."""
        if self._token_digest is None:
            raise AdminClosed()
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized(reason="no token was sent")
        salt = self._token_digest.partition("$")[0]
        if not hmac.compare_digest(token_digest(token.strip(), salt), self._token_digest):
            raise Unauthorized(reason="the token is wrong")


def token_digest(token: str, salt: str | None = None) -> str:
    """`<salt>$<digest>`, all that Ray may know of a token: no process but the client's holds the token itself.

    Without a `salt` a random one is taken: who reads a part of the digest in a log cannot try tokens against it.
    """
    salt = secrets.token_hex(16) if salt is None else salt
    return f"{salt}${sha256(f'{salt}${token}'.encode()).hexdigest()}"
