"""Figures as metrics."""

from __future__ import annotations

from aoti_serve.cluster.metrics.definitions import GATEWAY_METRICS, OF_VERSION, ROWS_ANSWERED, SUCCESS
from aoti_serve.gateway.figures.exported import SHOWN_S, ExportedFigures
from aoti_serve.gateway.figures.model_figures import HTTP, ModelFigures
from aoti_serve.protocol.statistics import KEPT_VERSIONS
from tests.unit.cluster.metrics.recorded import RecordedExport


def test_a_version_without_requests_has_no_series_after_a_while() -> None:
    figures, export, now = ModelFigures("m"), RecordedExport(GATEWAY_METRICS), [0.0]
    exported = ExportedFigures(figures, export, lambda: now[0])
    figures.note_answered(HTTP, 1, 2, 0.1)
    exported.export()
    now[0] = SHOWN_S + 1
    figures.note_answered(HTTP, 2, 3, 0.1)
    export.gauges.clear()
    exported.export()
    assert {key: value for key, value in export.gauges.items() if key[0] == OF_VERSION.name} == {
        (OF_VERSION.name, "m", "2", HTTP, "ok"): 1
    }
    assert export.totals[ROWS_ANSWERED.name, "m"] == 5


def test_counters_go_on_and_nothing_is_kept_of_versions_that_were_many_swaps_ago() -> None:
    figures, export = ModelFigures("m"), RecordedExport(GATEWAY_METRICS)
    exported = ExportedFigures(figures, export, lambda: 0.0)
    for version in range(1, KEPT_VERSIONS + 10):
        figures.note_answered(HTTP, version, 1, 0.1)
        exported.export()
        assert export.totals[SUCCESS.name, "m", HTTP] == version
    assert len(exported._moved) == KEPT_VERSIONS
