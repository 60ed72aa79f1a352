"""The figures of a gateway on their way to Prometheus and to the coordinators, every few seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aoti_serve.cluster.metrics.definitions import (
    BODY_BYTES,
    CONNECTIONS,
    IN_FLIGHT,
    LOOP_LAG,
    REACHED_RUNNERS,
    UNDER_WAY,
    WAITING_BYTES,
    WAITING_ROWS,
)
from aoti_serve.cluster.metrics.export import REPORT_S, MetricExport
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.figures.exported import ExportedFigures
from aoti_serve.gateway.figures.loop_lag import LoopLag

logger = logging.getLogger("ray.serve")
TRIAL_S = 1.0
LOAD = (WAITING_ROWS, WAITING_BYTES, UNDER_WAY, REACHED_RUNNERS)  # a BatcherLoad


class FiguresReport:
    """Runs in the gateway's event loop. `connections` returns how many there are over HTTP."""

    def __init__(self, plane: DataPlane, connections: Callable[[], int], export: MetricExport) -> None:
        self._plane = plane
        self._connections = connections
        self._lag = LoopLag()
        self._export = export
        figures = [*plane.figures.models.values(), plane.figures.unknown]
        self._exported = [ExportedFigures(each, self._export) for each in figures]

    async def run(self) -> None:
        """Report again and again; for ever, as a task."""
        loop = asyncio.get_running_loop()
        beside = [loop.create_task(work) for work in (self._lag.run(), self._go_on_with_trials())]
        try:
            while True:
                await asyncio.sleep(REPORT_S)
                await self.report()
        finally:
            for task in beside:
                task.cancel()

    async def _go_on_with_trials(self) -> None:
        """A rollout is to see soon what goes wrong."""
        while True:
            await asyncio.sleep(TRIAL_S)
            await self.report_trials()

    async def report_trials(self) -> None:
        """Tell the coordinators once what was counted of trials that are on."""
        try:
            await asyncio.gather(*(model.report_trial() for model in self._plane.models()))
        except Exception:  # they are told again, as totals
            logger.exception("what was counted of a trial could not be told")

    async def report(self) -> None:
        """Report once."""
        try:
            self._export_state()
            for each in self._exported:
                each.export()
                await asyncio.sleep(0)  # requests go on
            await asyncio.gather(*(model.statistics.report() for model in self._plane.models()))
        except Exception:  # whatever is wrong with figures, requests are answered
            logger.exception("figures could not be reported")

    def _export_state(self) -> None:
        plane, gauge = self._plane, self._export.gauge
        gauge(IN_FLIGHT, plane.door.inside)
        gauge(BODY_BYTES, plane.budget.held)
        gauge(CONNECTIONS, self._connections())
        gauge(LOOP_LAG, self._lag.take())
        for model in plane.models():
            for definition, value in zip(LOAD, model.load, strict=True):
                gauge(definition, value, model.name)
