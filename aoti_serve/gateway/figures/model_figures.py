"""The figures of one model in one gateway. Plain counters: all of them together cost a request some microseconds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from aoti_serve.cluster.metrics.histogram import ROWS, SECONDS, BucketCounts
from aoti_serve.gateway.figures.outcomes import RequestOutcome
from aoti_serve.link.messages import RunFacts
from aoti_serve.protocol.statistics import BATCH_FIELDS, KEPT_VERSIONS, VersionStatistics, shown_rows

HTTP, GRPC = "http", "grpc"
NS = 1_000_000_000
RequestKind = tuple[str, int | None, RequestOutcome]  # protocol, version, outcome


class ModelFigures:
    """Counted in the gateway's event loop, since the gateway started.

    Requests count when they end, by protocol, version and outcome; what is refused belongs to the version that answers
    then, `current`. Runs count when they are answered: those of large requests once for each piece, those that failed
    not at all. The last `KEPT_VERSIONS` versions have rows of their own, `earlier` has the sum of those before, whose
    requests are of no version any more.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.current: int | None = None
        self.versions: dict[int, VersionStatistics] = {}
        self.earlier = VersionStatistics(-1)
        self._answered: Counter[tuple[str, int | None]] = Counter()
        self._unanswered: Counter[RequestKind] = Counter()
        self.latency = {protocol: BucketCounts(SECONDS) for protocol in (HTTP, GRPC)}
        self.queued = BucketCounts(SECONDS)
        self.run_time = BucketCounts(SECONDS)
        self.padding = BucketCounts(ROWS)
        self.round_trip = BucketCounts(SECONDS)

    @property
    def requests(self) -> dict[RequestKind, int]:
        """How many there were of each kind."""
        answered = self._answered.items()
        return {(*key, RequestOutcome.OK): count for key, count in answered} | self._unanswered

    def of(self, version: int) -> VersionStatistics:
        found = self.versions.get(version)
        if found is None:
            found = self.versions[version] = VersionStatistics(version)
            if len(self.versions) > KEPT_VERSIONS:
                self._fold(min(self.versions.keys() - {version, self.current}))
        return found

    def total(self, name: str) -> int:
        """The sum of this number over all versions that there ever were."""
        return sum([getattr(row, name) for row in (*self.versions.values(), self.earlier)])

    def note_answered(self, protocol: str, version: int, rows: int, seconds: float) -> None:
        """Note a request that is answered, `seconds` after it had arrived."""
        counted = self.of(version)
        counted.success += 1
        counted.success_ns += int(seconds * NS)
        counted.inference_count += rows
        self._answered[protocol, version] += 1  # an enum's hash would take as long as all the rest
        self.latency[protocol].note(seconds)

    def note_unanswered(self, protocol: str, outcome: RequestOutcome, seconds: float) -> None:
        """Note a request that was refused, failed or given up."""
        self._unanswered[protocol, self.current, outcome] += 1
        if self.current is not None:
            counted = self.of(self.current)
            counted.fail += 1
            counted.fail_ns += int(seconds * NS)

    def note_run(self, version: int, rows: int, pieces: int, waits: Sequence[float], run: RunFacts) -> None:
        """Note an answered batch of `rows` for `pieces` of requests; `waits` are those of its new requests, in seconds.

        As in Triton each request is charged the whole time of its run.
        """
        counted, queue_ns, input_ns, infer_ns, output_ns = self.of(version), *run[:4]
        counted.last_inference = int(time.time() * 1e3)
        counted.execution_count += 1
        counted.queue_ns += int(self.queued.note_all(waits) * NS) + pieces * queue_ns
        counted.compute_input_ns += pieces * input_ns
        counted.compute_infer_ns += pieces * infer_ns
        counted.compute_output_ns += pieces * output_ns
        size = shown_rows(rows)
        times = counted.batches.get(size)
        if times is None:
            times = counted.batches[size] = [0] * BATCH_FIELDS
        times[0] += 1
        times[1] += input_ns
        times[2] += infer_ns
        times[3] += output_ns
        self.run_time.note(infer_ns / NS)
        if run.padding:
            self.padding.note(run.padding)

    def _fold(self, version: int) -> None:
        self.earlier.add(self.versions.pop(version))
        for answered in [key for key in self._answered if key[1] == version]:
            self._answered[answered[0], None] += self._answered.pop(answered)
        for kind in [kind for kind in self._unanswered if kind[1] == version]:
            self._unanswered[kind[0], None, kind[2]] += self._unanswered.pop(kind)

    def batch_rows(self) -> BucketCounts:
        """The rows of all answered batches."""
        found = BucketCounts(ROWS)
        for row in (*self.versions.values(), self.earlier):
            for rows, numbers in row.batches.items():
                found.add(rows, numbers[0])
        return found

    def statistics(self) -> list[VersionStatistics]:
        """A row for each version, and always one for the version that answers."""
        if self.current is not None:
            self.of(self.current)
        return [self.versions[version] for version in sorted(self.versions)]
