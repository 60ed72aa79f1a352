"""A gateway's report to Ray and to the coordinators."""

from __future__ import annotations

from typing import Any, cast

from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.coordinator.gathered import Gathered, Told
from aoti_serve.cluster.metrics.definitions import CONNECTIONS, GATEWAY_METRICS, IN_FLIGHT, SUCCESS, WAITING_ROWS
from aoti_serve.config import GatewayConfig, ModelConfig
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.figures.model_figures import HTTP
from aoti_serve.gateway.figures.report import FiguresReport
from aoti_serve.gateway.served_model import ServedModel
from tests.unit.cluster.metrics.recorded import RecordedExport
from tests.unit.gateway.http.gateway import NODE, SIGNATURE, Coordinator


async def test_a_report_tells_ray_and_the_coordinator_and_goes_on_after_a_defect() -> None:
    coordinator, export = Coordinator(), RecordedExport(GATEWAY_METRICS)
    config = ModelConfig.model_validate({"name": "m", "package": "m.pt2"})
    handle = cast(DeploymentHandle[Any], coordinator)
    served = ServedModel("gateway", NODE, config, SIGNATURE, handle, GatewayConfig())
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
