"""The figures of one model as metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from aoti_serve.cluster.metrics import definitions as known
from aoti_serve.cluster.metrics.export import MetricExport
from aoti_serve.gateway.figures.model_figures import ModelFigures, RequestKind
from aoti_serve.gateway.figures.outcomes import RequestOutcome

SHOWN_S = 600.0  # a version without requests for so long has no series of its own any more


class ExportedFigures:
    """Exports what one model's figures have come to.

    Series of versions are gauges, which end; those of a counter stay in Ray's agent, and a model whose weights change
    every few minutes has thousands of versions.
    """

    def __init__(
        self, figures: ModelFigures, export: MetricExport, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._figures = figures
        self._export = export
        self._clock = clock
        self._moved: dict[RequestKind, tuple[int, float]] = {}  # the count of a series, and since when it is that

    def export(self) -> None:
        self._export_requests()
        if self._figures.name:
            self._export_runs()
            self._export_histograms()

    def _export_requests(self) -> None:
        name, requests, totals = self._figures.name, self._figures.requests, Counter[tuple[str, RequestOutcome]]()
        for kind, count in requests.items():
            protocol, version, outcome = kind
            totals[protocol, outcome] += count
            if version is not None and self._is_recent(kind, count):
                self._export.gauge(known.OF_VERSION, count, name, str(version), protocol, outcome)
        self._moved = {kind: moved for kind, moved in self._moved.items() if kind in requests}
        for (protocol, outcome), count in totals.items():
            if outcome is RequestOutcome.OK:
                self._export.total(known.SUCCESS, count, name, protocol)
            else:
                self._export.total(known.FAILURE, count, name, protocol, outcome)

    def _export_runs(self) -> None:
        figures, export = self._figures, self._export
        for definition, field in ((known.ROWS_ANSWERED, "inference_count"), (known.RUNS, "execution_count")):
            export.total(definition, figures.total(field), figures.name)
        for definition, field in (
            (known.DURATION, "success_ns"),
            (known.QUEUE, "queue_ns"),
            (known.INPUT, "compute_input_ns"),
            (known.INFER, "compute_infer_ns"),
            (known.OUTPUT, "compute_output_ns"),
        ):
            export.total(definition, figures.total(field) / 1e3, figures.name)

    def _export_histograms(self) -> None:
        figures, export = self._figures, self._export
        for protocol, counts in figures.latency.items():
            if counts.count:
                export.histogram(known.LATENCY, counts, figures.name, protocol)
        export.histogram(known.QUEUED, figures.queued, figures.name)
        export.histogram(known.RUN_TIME, figures.run_time, figures.name)
        export.histogram(known.BATCH_ROWS, figures.batch_rows(), figures.name)
        export.histogram(known.ROW_PADDING, figures.padding, figures.name)
        export.histogram(known.ROUND_TRIP, figures.round_trip, figures.name)

    def _is_recent(self, series: RequestKind, count: int) -> bool:
        before, since = self._moved.get(series, (0, 0.0))
        if count != before:
            since = self._clock()
            self._moved[series] = count, since
        return self._clock() - since < SHOWN_S
