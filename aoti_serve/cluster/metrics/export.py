"""The way of metrics from this process to Ray's agent on its node, which answers Prometheus for all processes there.

A counter is given by its total, and its increments are exported. A histogram is exported as the series in which
Prometheus keeps one, `_bucket`, `_sum` and `_count`. Ray's own histograms record every value by itself, here and again
in the agent (read in Ray 2.60): the two of them cost more than the request that is measured.
"""

from __future__ import annotations

from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge

from aoti_serve.cluster.metrics.definitions import MetricDefinition, MetricKind
from aoti_serve.cluster.metrics.histogram import BucketCounts

REPORT_S = 5.0  # Ray forgets a gauge that is not set for 20 s


class MetricExport:
    """The exported metrics of one process. Each call takes some microseconds: for tasks that run now and then.

    Labels are given in the order of the definition.
    """

    def __init__(self, definitions: Iterable[MetricDefinition]) -> None:
        self._metrics: dict[str, Counter | Gauge] = {}
        self._totals: dict[tuple[str, ...], float] = {}
        for definition in definitions:
            self._make(definition)

    def total(self, definition: MetricDefinition, value: float, *labels: str) -> None:
        """What a counter has come to."""
        more = self._more((definition.name, *labels), value)
        if more > 0:
            counter = self._metrics[definition.name]
            assert isinstance(counter, Counter)
            counter.inc(more, _tags(definition, labels))

    def gauge(self, definition: MetricDefinition, value: float, *labels: str) -> None:
        """What a gauge shows now, and for as long as it is given again and again."""
        self._set(definition.name, value, _tags(definition, labels))

    def histogram(self, definition: MetricDefinition, counts: BucketCounts, *labels: str) -> None:
        tags = _tags(definition, labels)
        for bound, count in counts.cumulative():
            self._set(f"{definition.name}_bucket", count, tags | {"le": bound})
        self._set(f"{definition.name}_sum", counts.sum, tags)
        self._set(f"{definition.name}_count", counts.count, tags)

    def _make(self, definition: MetricDefinition) -> None:
        name, meaning, labels = definition.name, f"{definition.unit}: {definition.meaning}", definition.labels
        if definition.kind is MetricKind.COUNTER:
            self._metrics[name] = Counter(name, meaning, labels)
        elif definition.kind is MetricKind.GAUGE:
            self._metrics[name] = Gauge(name, meaning, labels)
        else:
            self._metrics[f"{name}_bucket"] = Gauge(f"{name}_bucket", meaning, (*labels, "le"))
            self._metrics |= {f"{name}_{end}": Gauge(f"{name}_{end}", meaning, labels) for end in ("sum", "count")}

    def _set(self, name: str, value: float, tags: dict[str, str]) -> None:
        gauge = self._metrics[name]
        assert isinstance(gauge, Gauge)
        gauge.set(value, tags)

    def _more(self, key: tuple[str, ...], value: float) -> float:
        before, self._totals[key] = self._totals.get(key, 0.0), value
        return value - before


def _tags(definition: MetricDefinition, labels: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(definition.labels, labels, strict=True))
