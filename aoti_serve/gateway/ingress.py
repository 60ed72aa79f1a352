"""The gateway as a Serve deployment class."""

from __future__ import annotations

import asyncio
import gc

from fastapi import FastAPI
from ray import serve

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.admin import Guard
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.http import build_app
from aoti_serve.gateway.placement import ServedModel, placed

# Requests in flight are young objects, and many: at Python's 700 the collector looks at them again and again.
YOUNG_OBJECTS = 10_000


class Gateway:
    """Ready once it knows every model's committed version, so that it never lets an older one through."""

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self, config: GatewayConfig, models: list[ServedModel], token_digest: str | None
    ) -> None:
        gc.set_threshold(YOUNG_OBJECTS)
        self._config = config
        self._guard = Guard(token_digest)
        name = serve.get_replica_context().replica_id.unique_id
        self._plane = DataPlane(await asyncio.gather(*(placed(name, model, config) for model in models)))
        await self._plane.join()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._plane, self._guard, self._config)

    def check_health(self) -> None:
        self._plane.check_health()

    async def drain(self) -> int:
        """Take no new inference requests from now on; how many are still being answered."""
        self._plane.door.open = False
        return self._plane.door.inside
