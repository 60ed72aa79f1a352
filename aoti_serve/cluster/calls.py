"""Errors across Ray calls."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from aoti_serve.errors import AotiServeError


async def unwrapped(call: Awaitable[Any]) -> Any:
    """Await a handle call; an AotiServeError raised on the other side is raised here as itself.

    Ray wraps it in a RayTaskError whose text is a traceback.
    """
    try:
        return await call
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, AotiServeError):
            raise cause from None
        raise
