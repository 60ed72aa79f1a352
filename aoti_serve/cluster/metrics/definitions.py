"""Every metric that this package exports. docs/reference/metrics.md is made of this.

Where a metric means what one of Triton's means, it has Triton's name with `aoti_serve` for `nv`. Ray puts `ray_` before
each name, and labels of its own beside ours: the node, and the process (`WorkerId`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from aoti_serve.cluster.metrics.histogram import ROWS, SECONDS


class MetricKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricDefinition(NamedTuple):
    """A metric. `bounds` are those of a histogram's buckets."""

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    unit: str
    meaning: str
    bounds: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """Its name in Prometheus; of a histogram without `_bucket`, `_sum` and `_count`."""
        suffix = "_total" if self.kind is MetricKind.COUNTER and not self.name.endswith("_total") else ""
        return f"ray_{self.name}{suffix}"


def _counter(name: str, labels: str, unit: str, meaning: str) -> MetricDefinition:
    return MetricDefinition(f"aoti_serve_{name}", MetricKind.COUNTER, tuple(labels.split()), unit, meaning)


def _gauge(name: str, labels: str, unit: str, meaning: str) -> MetricDefinition:
    return MetricDefinition(f"aoti_serve_{name}", MetricKind.GAUGE, tuple(labels.split()), unit, meaning)


def _histogram(name: str, labels: str, unit: str, meaning: str, bounds: tuple[float, ...]) -> MetricDefinition:
    return MetricDefinition(f"aoti_serve_{name}", MetricKind.HISTOGRAM, tuple(labels.split()), unit, meaning, bounds)


# Of a gateway: requests.
SUCCESS = _counter("inference_request_success", "model protocol", "requests", "answered")
FAILURE = _counter("inference_request_failure", "model protocol reason", "requests", "refused, failed or given up")
ROWS_ANSWERED = _counter("inference_count", "model", "rows", "of answered requests")
RUNS = _counter("inference_exec_count", "model", "runs", "answered batches")
DURATION = _counter("inference_request_duration_us", "model", "us", "of answered requests, from arrival to answer")
QUEUE = _counter("inference_queue_duration_us", "model", "us", "waited in all: in the gateway, then in a replica")
INPUT = _counter("inference_compute_input_duration_us", "model", "us", "a replica took the inputs")
INFER = _counter("inference_compute_infer_duration_us", "model", "us", "the model ran")
OUTPUT = _counter("inference_compute_output_duration_us", "model", "us", "a replica gave the outputs")
OF_VERSION = _gauge(
    "version_requests",
    "model version protocol outcome",
    "requests",
    "since the gateway started; shown for the versions with requests in the last ten minutes",
)
LATENCY = _histogram("request_seconds", "model protocol", "s", "answered requests, from arrival to answer", SECONDS)
QUEUED = _histogram(
    "queue_seconds", "model", "s", "a request's wait in the gateway alone, before that in a replica", SECONDS
)
RUN_TIME = _histogram("run_seconds", "model", "s", "a run of the model", SECONDS)
BATCH_ROWS = _histogram("batch_rows", "model", "rows", "of an answered batch", ROWS)
ROW_PADDING = _histogram("batch_padding_rows", "model", "rows", "added to a batch that fills no static size", ROWS)
ROUND_TRIP = _histogram("link_round_trip_seconds", "model", "s", "a batch's way to a replica and back", SECONDS)

# Of a gateway: its state.
WAITING_ROWS = _gauge("waiting_rows", "model", "rows", "have not left for a replica")
WAITING_BYTES = _gauge("waiting_bytes", "model", "bytes", "of the rows that wait")
UNDER_WAY = _gauge("batches_under_way", "model", "batches", "have left for a replica, and are not answered")
REACHED_RUNNERS = _gauge("reached_runners", "model", "runners", "of the replicas that this gateway can ask now")
IN_FLIGHT = _gauge("requests_in_flight", "", "requests", "of all models that are read, wait, run or are answered")
BODY_BYTES = _gauge("held_body_bytes", "", "bytes", "count against `gateway.max_reading_bytes`")
CONNECTIONS = _gauge("connections", "", "connections", "of clients, over HTTP and gRPC")
LOOP_LAG = _gauge("event_loop_lag_seconds", "", "s", "the longest that the event loop was late since the last report")

# Of a replica.
RUNNERS = _gauge("runners", "model", "runners", "of this replica")
BUSY = _gauge("runners_busy", "model", "runners", "that ran, on average since the last report")

# Of a coordinator.
WEIGHTS_VERSION = _gauge("weights_version", "model", "", "the committed weights version")
WEIGHTS_EPOCH = _gauge("weights_epoch", "model", "commits", "how many times weights were committed")
WEIGHTS_INFO = _gauge("weights_info", "model version digest", "", "always 1; which bytes are committed")
SUPERSEDED = _gauge(
    "superseded", "model", "", "1 while another application leads its store, and this one follows; else 0"
)
REPLICAS = _gauge("replicas", "model", "replicas", "that live and hold the committed version")
MEMBERS = _gauge("members", "model kind", "processes", "that have joined: `replica` or `gateway`")
REPLICA_STARTS = _counter("replica_starts", "model", "replicas", "that have joined since the coordinator started")
SWAPS = _counter("swaps_total", "model action outcome", "attempts", "to change weights")
SWAP_BYTES = _counter("swap_bytes_total", "model", "bytes", "of weights that replicas received")
_SWAP_BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
SWAP_SECONDS = _histogram(
    "swap_seconds", "model action", "s", "an attempt, from being asked for to its end", _SWAP_BOUNDS
)
SWAP_PHASES = _histogram("swap_phase_seconds", "model phase", "s", "a phase of an attempt", _SWAP_BOUNDS)

# Of a coordinator: the trial that is on, and rollouts. Gauges, which end with the trial.
CANDIDATE_SHARE = _gauge("candidate_share", "model", "", "of the requests, 0 to 1, that the version on trial answers")
TRIAL_REQUESTS = _gauge("trial_requests", "model arm", "requests", "of this version since the trial began")
TRIAL_FAILURES = _gauge("trial_failures", "model arm", "requests", "of these, failed by the server's fault")
TRIAL_NON_FINITE = _gauge(
    "trial_non_finite", "model arm", "answers", "with a NaN or an infinity, by the version's doing"
)
TRIAL_P99 = _gauge("trial_p99_seconds", "model arm", "s", "99 of 100 of these requests took no longer")
SHADOW_PAIRS = _gauge("shadow_pairs", "model", "requests", "that ran on both versions and were compared")
SHADOW_TOP1 = _gauge("shadow_top1_agreement", "model output", "", "share of rows, 0 to 1, with the same first class")
SHADOW_COSINE = _gauge("shadow_cosine", "model output", "", "mean cosine of both versions' rows")
ROLLOUTS = _counter("rollouts", "model outcome", "rollouts", "that have ended")

GATEWAY_METRICS = (
    *(SUCCESS, FAILURE, ROWS_ANSWERED, RUNS, DURATION, QUEUE, INPUT, INFER, OUTPUT, OF_VERSION),
    *(LATENCY, QUEUED, RUN_TIME, BATCH_ROWS, ROW_PADDING, ROUND_TRIP),
    *(WAITING_ROWS, WAITING_BYTES, UNDER_WAY, REACHED_RUNNERS, IN_FLIGHT, BODY_BYTES, CONNECTIONS, LOOP_LAG),
)
REPLICA_METRICS = (RUNNERS, BUSY)
COORDINATOR_METRICS = (
    *(WEIGHTS_VERSION, WEIGHTS_EPOCH, WEIGHTS_INFO, SUPERSEDED, REPLICAS, MEMBERS),
    *(REPLICA_STARTS, SWAPS, SWAP_BYTES, SWAP_SECONDS, SWAP_PHASES),
)
ROLLOUT_METRICS = (
    *(CANDIDATE_SHARE, TRIAL_REQUESTS, TRIAL_FAILURES, TRIAL_NON_FINITE, TRIAL_P99),
    *(SHADOW_PAIRS, SHADOW_TOP1, SHADOW_COSINE, ROLLOUTS),
)
