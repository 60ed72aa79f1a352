"""Calls between our processes: how long they may take, and errors on the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from aoti_serve.errors import AotiServeError, TryAgain


async def result_of(call: Awaitable[Any], seconds: float | None = None) -> Any:
    """Await a call; an AotiServeError raised on the other side is raised here as itself.

    Ray wraps it in a RayTaskError whose text is a traceback. Raises Unavailable if there is no answer in so many
    `seconds`: a process that is stopped, not dead, would never give one.
    """
    clock = asyncio.timeout(seconds)
    try:
        async with clock:
            return await call
    except Exception as error:
        if clock.expired():
            raise TryAgain(detail=f"no answer within {seconds:g} s") from None
        cause = getattr(error, "cause", None)
        if isinstance(cause, AotiServeError):
            raise cause from None
        raise
