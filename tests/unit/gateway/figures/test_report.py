"""A gateway's report to Ray and to the coordinators."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import pytest
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.coordinator.gathered import Gathered, Told
from aoti_serve.cluster.metrics.definitions import CONNECTIONS, GATEWAY_METRICS, IN_FLIGHT, SUCCESS, WAITING_ROWS
from aoti_serve.config import GatewayConfig, ModelConfig
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.figures import report as reporting
from aoti_serve.gateway.figures.model_figures import HTTP
from aoti_serve.gateway.figures.report import FiguresReport
from aoti_serve.gateway.served_model import ServedModel
from aoti_serve.weights.swap.target import Target, Trial
from aoti_serve.weights.version import Committed, Version
from tests.unit.cluster.metrics.recorded import RecordedExport
from tests.unit.gateway.http.gateway import NODE, SIGNATURE, Coordinator

COMMITTED = Committed(epoch=1, version=Version(number=1))


def refused_by_grpc() -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata())


def reached() -> tuple[Coordinator, ServedModel]:
    coordinator = Coordinator()
    config = ModelConfig.model_validate({"name": "m", "package": "m.pt2"})
    handle = cast(DeploymentHandle[Any], coordinator)
    return coordinator, ServedModel("gateway", NODE, config, SIGNATURE, handle, GatewayConfig())


async def test_a_report_tells_ray_and_the_coordinator_and_goes_on_after_a_defect() -> None:
    (coordinator, served), export = reached(), RecordedExport(GATEWAY_METRICS)
    plane = DataPlane([served], 2**20)
    report = FiguresReport(plane, lambda: 3, export)
    served.figures.note_answered(HTTP, 1, 2, 0.1)
    coordinator.answers["exchange_statistics"] = RuntimeError("a defect")
    await report.report()
    coordinator.answers["exchange_statistics"] = Gathered([], [])
    with plane.door:
        await report.report()
    assert export.gauges[(CONNECTIONS.name,)] == 3
    assert export.gauges[(IN_FLIGHT.name,)] == 1
    assert export.gauges[WAITING_ROWS.name, "m"] == 0
    assert export.totals[SUCCESS.name, "m", HTTP] == 1
    assert [call[1][1:] for call in coordinator.calls if isinstance(call[1], Told)] == [
        (list(served.figures.versions.values()), [1], False),
        (list(served.figures.versions.values()), [1], False),
    ]
    served.close()


@pytest.mark.parametrize("error", [RuntimeError("a defect"), refused_by_grpc()], ids=["defect", "grpc"])
async def test_what_a_trial_has_counted_is_told_again_after_an_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporting, "TRIAL_S", 0.0)
    coordinator, served = reached()
    await served.reconcile(Target(term=1, revision=1, committed=COMMITTED, trial=Trial("swap", 2, 1)))
    coordinator.answers["note_trial"] = error
    report = FiguresReport(DataPlane([served], 2**20), lambda: 0, RecordedExport(GATEWAY_METRICS))
    going = asyncio.create_task(report.run())
    async with asyncio.timeout(30):
        while sum(call[0] == "note_trial" for call in coordinator.calls) < 3:
            await asyncio.sleep(0)
    assert ("could not be told" in caplog.text) == isinstance(error, RuntimeError)
    going.cancel()
    served.close()
