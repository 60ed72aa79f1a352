"""Metrics of a model's weights, for Prometheus; Ray's own endpoint on each node exports them."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from aoti_serve.cluster.status import Outcome

SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300]


class SwapMetrics:
    """The metrics of one model; kept by its coordinator."""

    def __init__(self, model: str) -> None:
        tags = {"model": model}
        self._version = Gauge("aoti_serve_weights_version", "The committed weights version.", ("model",))
        self._epoch = Gauge("aoti_serve_weights_epoch", "How many times weights were committed.", ("model",))
        self._replicas = Gauge("aoti_serve_replicas", "Live replicas that hold the committed version.", ("model",))
        self._swaps = Counter("aoti_serve_swaps_total", "Attempts to change weights.", ("model", "action", "outcome"))
        self._bytes = Counter("aoti_serve_swap_bytes_total", "Bytes of weights that replicas received.", ("model",))
        self._phases = Histogram("aoti_serve_swap_phase_seconds", "Time per phase.", SECONDS, ("model", "phase"))
        for metric in (self._version, self._epoch, self._replicas, self._swaps, self._bytes, self._phases):
            metric.set_default_tags(tags)

    def answers(self, version: int, epoch: int, replicas: int) -> None:
        """This version answers now, with so many replicas."""
        self._version.set(version)
        self._epoch.set(epoch)
        self._replicas.set(replicas)

    def ended(self, outcome: Outcome) -> None:
        """An attempt has ended."""
        self._swaps.inc(1, {"action": outcome.action, "outcome": outcome.outcome})
        for phase, seconds in outcome.phases.items():
            self._phases.observe(seconds, {"phase": phase})

    def moved(self, nbytes: int) -> None:
        """Bytes have arrived at replicas."""
        if nbytes:
            self._bytes.inc(nbytes)
