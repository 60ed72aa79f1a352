"""An export that keeps what it was given."""

from __future__ import annotations

from aoti_serve.cluster.metrics.definitions import MetricDefinition
from aoti_serve.cluster.metrics.export import MetricExport


class RecordedExport(MetricExport):
    """The real one, with what it was given by name and labels."""

    def __init__(self, definitions: tuple[MetricDefinition, ...]) -> None:
        super().__init__(definitions)
        self.gauges: dict[tuple[str, ...], float] = {}
        self.totals: dict[tuple[str, ...], float] = {}

    def gauge(self, definition: MetricDefinition, value: float, *labels: str) -> None:
        super().gauge(definition, value, *labels)
        self.gauges[definition.name, *labels] = value

    def total(self, definition: MetricDefinition, value: float, *labels: str) -> None:
        super().total(definition, value, *labels)
        self.totals[definition.name, *labels] = value
