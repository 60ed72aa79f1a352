"""The weights API's guard and its request bodies."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Annotated

from pydantic import Field, StringConstraints

from aoti_serve.errors import AdminClosed, Unauthorized
from aoti_serve.tensors import Frozen

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
Label = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]  # it is shown in terminals


class SwapBody(Frozen):
    """`POST /v2/models/{m}/weights` as JSON: a file that the coordinator's node can read."""

    uri: str
    label: Label = ""
    sha256: Sha256 | None = None


class RollbackBody(Frozen):
    """`POST /v2/models/{m}/weights/rollback`: the previous version if none is named."""

    version: Annotated[int, Field(ge=0)] | None = None


class Guard:
    """Lets a request through whose bearer token has the configured digest; without one, nothing gets through."""

    def __init__(self, token_digest: str | None) -> None:
        self._token_digest = token_digest

    def check(self, authorization: str | None) -> None:
        """Raises AdminClosed or Unauthorized."""
        if self._token_digest is None:
            raise AdminClosed()
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized(reason="there is none")
        if not hmac.compare_digest(token_digest(token.strip()), self._token_digest):
            raise Unauthorized(reason="the token is wrong")


def token_digest(token: str) -> str:
    """What Ray may know of a token: gateways compare digests, so that no process but the client holds the token."""
    return sha256(token.encode()).hexdigest()
