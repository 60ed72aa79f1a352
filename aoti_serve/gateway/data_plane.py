"""All models of one gateway, whatever the protocol; HTTP and gRPC translate to this."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from aoti_serve.errors import UnknownModel
from aoti_serve.gateway.figures.counted import GatewayFigures
from aoti_serve.gateway.in_flight import InFlight, ReadingBudget
from aoti_serve.gateway.request_log import note_model
from aoti_serve.gateway.served_model import ServedModel
from aoti_serve.protocol.triton import repository_index

JOIN_S = 30.0  # for all models of a gateway
READY_LOOK_S = 0.05
REFUSED_S = 1.0  # between two lines of the audit about refused attempts


class DataPlane:
    """All models of one gateway."""

    def __init__(self, models: Sequence[ServedModel], max_reading_bytes: int) -> None:
        self.door = InFlight()
        self.budget = ReadingBudget(max_reading_bytes)
        self.figures = GatewayFigures(model.figures for model in models)
        self._models = {model.name: model for model in models}
        self._joining: list[asyncio.Task[None]] = []
        self.leaving = False
        self._refused = RefusedAttempts()

    async def join(self) -> None:
        """Join the clusters of all models at once.

        Returns when all have joined. After `JOIN_S` one is enough: a model whose coordinator cannot start must not keep
        a gateway from the others. It goes on joining, and its requests get a 503 meanwhile.
        """
        loop = asyncio.get_running_loop()
        joining = [loop.create_task(model.membership.join()) for model in self._models.values()]
        await asyncio.wait(joining, timeout=JOIN_S)
        if not any(task.done() for task in joining):
            await asyncio.wait(joining, return_when=asyncio.FIRST_COMPLETED)
        self._joining = joining
        self._check_joining()

    async def become_ready(self) -> None:
        """Wait until every model is ready, for `JOIN_S` at most: clients come as soon as the port is open."""
        with suppress(TimeoutError):
            async with asyncio.timeout(JOIN_S):
                while self.reason_not_ready:
                    await asyncio.sleep(READY_LOOK_S)

    def check_health(self) -> None:
        self._check_joining()
        for model in self._models.values():
            model.check_health()

    def _check_joining(self) -> None:
        """Raise the error of a join that has failed."""
        for task in self._joining:
            if task.done():
                task.result()

    def leave(self) -> None:
        """Say from now on that this gateway is not ready. It answers what it is asked until it is closed."""
        self.leaving = True
        for model in self._models.values():
            model.drain()

    def drain(self) -> None:
        """Leave, and refuse new requests. Those in flight are answered."""
        self.leave()
        self.door.open = False

    async def close(self) -> None:
        await self._refused.close()
        for model in self._models.values():
            model.close()

    @property
    def reason_not_ready(self) -> str | None:
        if self.leaving:
            return "the gateway is being stopped"
        reasons = [self._models[name].reason_not_ready for name in self.names]
        return "; ".join(filter(None, reasons)) or None

    @property
    def names(self) -> list[str]:
        return sorted(self._models)

    def index(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """The models, as Triton lists its repository."""
        reasons = [(model, model.reason_not_ready) for model in self.models()]
        return repository_index(
            (model.name, model.version, reason) for model, reason in reasons if not (ready_only and reason)
        )

    def models(self) -> list[ServedModel]:
        return [self._models[name] for name in self.names]

    def model(self, name: str) -> ServedModel:
        """The model that a request is about, which its log line names, too. Raises UnknownModel."""
        if name not in self._models:
            raise UnknownModel(name=name, known=self.names)
        note_model(name)
        return self._models[name]

    def note_refused(self, name: str, action: str, address: str, reason: str) -> None:
        """Audit a refused attempt, in the background."""
        self._refused.note(self._models.get(name), {"action": action, "who": address, "error": reason})


class RefusedAttempts:
    """Audits attempts that were refused: a line a second at most, so that a flood costs little.

    A line has the facts of the last attempt, and how many there were since the line before. Those for no model that is
    served here are only counted.
    """

    def __init__(self) -> None:
        self._count = 0
        self._last: tuple[ServedModel, dict[str, str]] | None = None
        self._closing = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def note(self, served: ServedModel | None, facts: dict[str, str]) -> None:
        self._count += 1
        if served is None:
            return
        self._last = served, facts
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Write the line that is due, without delay."""
        self._closing.set()
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=REFUSED_S)  # its coordinator may have ended already

    async def _write(self) -> None:
        """Write a line after the other, until a second has brought no further attempt."""
        while self._last is not None:
            (served, facts), count = self._last, self._count
            self._last, self._count = None, 0
            await served.weights.refused(facts | {"since_last": str(count)})
            with suppress(TimeoutError):
                async with asyncio.timeout(REFUSED_S):
                    await self._closing.wait()
