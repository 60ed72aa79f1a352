"""Calls between our processes: how they travel, and errors on the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from ray.serve.handle import DeploymentHandle

from aoti_serve.errors import AotiServeError, Unavailable


def apart(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """The same deployment, called over gRPC in every mode of Serve; messages are limited to 4 MB.

    By actor call, Serve's other way, the callee waits at the end of each answer until the caller has taken it, with its
    whole event loop: one caller that is stopped would stop the coordinator.
    """
    return handle.options(_by_reference=False)


async def unwrapped(call: Awaitable[Any], seconds: float | None = None) -> Any:
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
            raise Unavailable(detail=f"no answer within {seconds:g} s") from None
        cause = getattr(error, "cause", None)
        if isinstance(cause, AotiServeError):
            raise cause from None
        raise
