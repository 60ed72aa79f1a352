"""The sum of what all gateways of a model have counted, over the model's coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from aoti_serve.cluster.calls import CALL_FAILED
from aoti_serve.cluster.coordinator.gathered import Gathered, Told
from aoti_serve.cluster.coordinator_client import CoordinatorClient
from aoti_serve.errors import UnknownVersion
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.protocol.statistics import VersionStatistics, summed_by_version


class StatisticsExchange:
    """Tells the coordinator what this gateway has counted, and learns what the others have. In the event loop."""

    def __init__(self, gateway: str, figures: ModelFigures, coordinator: CoordinatorClient) -> None:
        self._gateway = gateway
        self._figures = figures
        self._coordinator = coordinator
        self._sent: dict[int, int] = {}  # progress, by version
        self._turn = asyncio.Lock()

    async def total(self) -> list[VersionStatistics]:
        """A row for each version, of all gateways: of this one as it is now, of the others as they last reported.

        Raises Unavailable while there is no coordinator.
        """
        others = await self._exchange(asks=True)
        return summed_by_version([*self._figures.statistics(), *others])

    async def report(self) -> None:
        """Tell the coordinator what is new, if anything is. While there is none, nothing is lost: it is told later."""
        if self._changed():
            with suppress(*CALL_FAILED):
                await self._exchange(asks=False)

    async def messages(self, version: str | None = None) -> list[dict[str, Any]]:
        """Triton's rows of all gateways, of one version or of all. Raises UnknownVersion, or Unavailable."""
        rows = [row for row in await self.total() if version in (None, str(row.version))]
        if not rows:
            current = self._figures.current or 0
            raise UnknownVersion(name=self._figures.name, version=str(version), current=current)
        return [row.message(self._figures.name) for row in rows]

    async def _exchange(self, *, asks: bool) -> list[VersionStatistics]:
        async with self._turn:
            gathered = await self._send(asks)
            if gathered.missing:  # the coordinator has just started
                gathered = await self._send(asks)
            return gathered.others

    async def _send(self, asks: bool) -> Gathered:
        changed, progress = self._changed(), {row.version: row.progress for row in self._rows()}
        gathered = await self._coordinator.exchange_statistics(Told(self._gateway, changed, list(progress), asks))
        self._sent = {version: sent for version, sent in progress.items() if version not in gathered.missing}
        return gathered

    def _changed(self) -> list[VersionStatistics]:
        return [row.copy() for row in self._rows() if row.progress != self._sent.get(row.version)]

    def _rows(self) -> list[VersionStatistics]:
        return [row for row in self._figures.versions.values() if row.progress]


async def all_statistics(models: Iterable[StatisticsExchange]) -> list[dict[str, Any]]:
    """The rows of several models, in their order."""
    found = await asyncio.gather(*(model.messages() for model in models))
    return [row for rows in found for row in rows]
