"""Who may ask a gateway, and who may change its weights: bearer tokens, checked for HTTP and gRPC alike."""

from __future__ import annotations

import asyncio
import logging
import math

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AdminClosed, TooManyWrongTokens, Unauthorized
from aoti_serve.gateway.wrong_tokens import WrongTokens
from aoti_serve.token import TokenFile, TokenSet

logger = logging.getLogger("ray.serve")
TOKENS_LOOK_S = 1.0
ADMIN, INFERENCE = "the weights API", "this server"


class Access:
    """The tokens of one gateway, and the checks of an Authorization header. Lives in the gateway's event loop.

    `own` holds the admin token of the server's user, if there is one; the file of `gateway.admin_tokens` replaces it.
    Raises InvalidConfig if a file of tokens cannot be used.
    """

    def __init__(self, config: GatewayConfig, own: TokenSet, wrong: WrongTokens | None = None) -> None:
        self._admin = own
        self._inference = TokenSet(own.key)
        self._wrong = wrong or WrongTokens()
        named = ((config.admin_tokens, self._admin), (config.inference_tokens, self._inference))
        self._files = [TokenFile(path, tokens) for path, tokens in named if path is not None]
        self._watching: asyncio.Task[None] | None = None
        self.asks_for_inference = config.inference_tokens is not None
        for file in self._files:
            file.load()

    def watch(self) -> None:
        """Take changes of the files from now on, until `close`."""
        if self._files:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TOKENS_LOOK_S)
            for file in self._files:
                try:
                    await asyncio.to_thread(file.look)  # a network's file system may not answer
                except Exception:  # whatever one look's defect is, the next one may see more
                    logger.exception("a file of tokens could not be looked at")

    def check_admin(self, authorization: str | None, address: str) -> str:
        """The name of an admin token. Raises AdminClosed, Unauthorized, or TooManyWrongTokens."""
        if not self._admin:
            raise AdminClosed()
        token = _bearer(authorization, ADMIN, "admin")
        return self._checked(self._admin.name_of(token), address, ADMIN, "admin")

    def check_inference(self, authorization: str | None, address: str) -> None:
        """Admit whoever sends an inference token, or an admin's. Raises Unauthorized, or TooManyWrongTokens."""
        if self.asks_for_inference:
            token = _bearer(authorization, INFERENCE, "inference")
            name = self._inference.name_of(token) or self._admin.name_of(token)
            self._checked(name, address, INFERENCE, "inference")

    def _checked(self, name: str | None, address: str, place: str, kind: str) -> str:
        """The name, if it is one, and if the address is not barred."""
        if name is not None and self._wrong.is_holder((address, kind, name)):
            return name
        if barred_s := self._wrong.barred_s(address):
            raise TooManyWrongTokens(retry_after=math.ceil(barred_s))
        if name is None:
            self._wrong.add(address)
            raise Unauthorized(place=place, kind=kind, reason="the token is wrong")
        self._wrong.add_holder((address, kind, name))
        return name


def _bearer(authorization: str | None, place: str, kind: str) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise Unauthorized(place=place, kind=kind, reason="what was sent does not begin with `Bearer `")
    if not token.strip():
        raise Unauthorized(place=place, kind=kind, reason="no token was sent")
    return token.strip()
