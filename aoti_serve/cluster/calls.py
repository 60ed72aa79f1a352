"""Calls between our processes: how they travel, and errors on the way back."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from ray.serve.handle import DeploymentHandle

from aoti_serve.errors import AotiServeError


def apart(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """The same deployment, called over gRPC in every mode of Serve; messages are limited to 4 MB.

    By actor call, Serve's other way, the callee waits at the end of each answer until the caller has taken it, with its
    whole event loop: one caller that is stopped would stop the coordinator.
    """
    return handle.options(_by_reference=False)


async def unwrapped(call: Awaitable[Any]) -> Any:
    """Await a call; an AotiServeError raised on the other side is raised here as itself.

    Ray wraps it in a RayTaskError whose text is a traceback.
    """
    try:
        return await call
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, AotiServeError):
            raise cause from None
        raise
