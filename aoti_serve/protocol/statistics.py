"""What Triton's extension `statistics` counts, for each weights version of a model.

Rules: extension_statistics.md and infer_stats.cc (triton-inference-server); field names are those of ModelStatistics in
grpc_service.proto, which are those of the JSON as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

KEPT_VERSIONS = 256
EXACT_ROWS = 256  # of a run
BATCH_FIELDS = 4  # of each entry in `batches`: its count, and the sums of its three times


@dataclass(slots=True)
class VersionStatistics:
    """What one weights version has answered. Every number only ever grows, but `last_inference`, in ms since 1970.

    `inference_count` counts rows of answered requests, `execution_count` runs, `success` and `fail` requests, which
    took `success_ns` and `fail_ns` from their arrival to their answer. The other times are sums over requests, as in
    Triton: a run counts once for each request in it. `batches` has the number of runs, by `shown_rows`, and what their
    inputs, the model, and their outputs took.
    """

    version: int
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: int = 0
    success_ns: int = 0
    fail: int = 0
    fail_ns: int = 0
    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    batches: dict[int, list[int]] = field(default_factory=dict)

    @property
    def progress(self) -> int:
        """Grows whenever anything has been counted."""
        return self.execution_count + self.success + self.fail

    def copy(self) -> VersionStatistics:
        return summed([self], self.version)

    def add(self, other: VersionStatistics) -> None:
        """Count what the other has counted, too."""
        self.last_inference = max(self.last_inference, other.last_inference)
        for name in SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for rows, numbers in other.batches.items():
            mine = self.batches.setdefault(rows, [0] * BATCH_FIELDS)
            mine[:] = [one + another for one, another in zip(mine, numbers, strict=True)]

    def message(self, model: str) -> dict[str, Any]:
        """A ModelStatistics. Nothing is cached, and every field that a client reads is there."""
        durations = {
            "success": (self.success, self.success_ns),
            "fail": (self.fail, self.fail_ns),
            # Triton counts these once for each request that it has answered, whether it had to wait or not.
            "queue": (self.success, self.queue_ns),
            "compute_input": (self.success, self.compute_input_ns),
            "compute_infer": (self.success, self.compute_infer_ns),
            "compute_output": (self.success, self.compute_output_ns),
            "cache_hit": (0, 0),
            "cache_miss": (0, 0),
        }
        return {
            "name": model,
            "version": str(self.version),
            "last_inference": self.last_inference,
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {name: _duration(*numbers) for name, numbers in durations.items()},
            "batch_stats": [_batch(rows, *numbers) for rows, numbers in sorted(self.batches.items())],
        }


def shown_rows(rows: int) -> int:
    """The size under which runs of so many rows are counted: their own, or above `EXACT_ROWS` up to an eighth more.

    So there are 320 sizes up to 65,536 rows, and `KEPT_VERSIONS` rows fit into one message between processes, 4 MiB.
    """
    if rows <= EXACT_ROWS:
        return rows
    step = 1 << ((rows - 1).bit_length() - 4)  # an eighth of the octave that they are in
    return -(-rows // step) * step


SUMMED = tuple(
    name for name in VersionStatistics.__dataclass_fields__ if name not in ("version", "last_inference", "batches")
)


def summed(parts: Iterable[VersionStatistics], version: int) -> VersionStatistics:
    """The sum of what several gateways have counted of one version."""
    total = VersionStatistics(version)
    for part in parts:
        total.add(part)
    return total


def summed_by_version(parts: Iterable[VersionStatistics]) -> list[VersionStatistics]:
    """A row for each version, oldest first."""
    totals: dict[int, VersionStatistics] = {}
    for part in parts:
        totals.setdefault(part.version, VersionStatistics(part.version)).add(part)
    return [totals[version] for version in sorted(totals)]


def _duration(count: int, nanoseconds: int) -> dict[str, int]:
    return {"count": count, "ns": nanoseconds}


def _batch(rows: int, count: int, *nanoseconds: int) -> dict[str, Any]:
    names = ("compute_input", "compute_infer", "compute_output")
    times = {name: _duration(count, taken) for name, taken in zip(names, nanoseconds, strict=True)}
    return {"batch_size": rows, **times}
