"""The counters behind a trial's figures, in a gateway's event loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from numpy.typing import NDArray

from aoti_serve.signature.tensors import TensorSpec
from aoti_serve.weights.rollout.compare import OutputReader, PairComparison
from aoti_serve.weights.rollout.figures import ArmFigures, ShadowFigures, TrialFigures
from aoti_serve.weights.rollout.latency import LAST_BUCKET, LatencyCounts, bucket_of
from aoti_serve.weights.rollout.outputs import OutputAgreement, OutputMoments


class ArmCounts:
    """Counts the requests of one version. For one thread."""

    __slots__ = ("_doubts", "_failures", "_latency", "_moments", "_non_finite", "_passed_over", "_readers", "_requests")

    def __init__(self, readers: Sequence[OutputReader]) -> None:
        self._readers = readers
        self._requests = self._failures = self._non_finite = self._doubts = self._passed_over = 0
        self._latency = [0] * (LAST_BUCKET + 1)
        self._moments = [[0, 0.0, 0.0] for _ in readers]

    def note(self, seconds: float, failed: bool = False) -> None:
        """Note a request that has ended; `failed` by the server's fault. Some hundred nanoseconds."""
        self._requests += 1
        self._latency[bucket_of(seconds)] += 1
        if failed:
            self._failures += 1

    def note_doubt(self, *, non_finite: bool) -> None:
        """Of a request that was noted: its answer holds a NaN or an infinity; `non_finite` by this version's doing."""
        self._doubts += 1
        self._non_finite += non_finite

    def note_passed_over(self) -> None:
        """As `note_doubt`, where nobody has looked whose doing it is."""
        self._passed_over += 1

    def note_outputs(self, arrays: Iterable[NDArray[Any]]) -> bool:
        """Note the outputs of a run, in the order of the signature; returns whether any value is not finite.

        Takes about 6 us for 64 rows of 10 floats, and 2 ms for a million of them.
        """
        finite = True
        for reader, moments, array in zip(self._readers, self._moments, arrays, strict=True):
            sums = reader.sums(array)
            finite = finite and sums.finite
            moments[0] += sums.size
            moments[1] += sums.total
            moments[2] += sums.squares
        return not finite

    def are_finite(self, arrays: Iterable[NDArray[Any]]) -> bool:
        """Whether all values of an answer are finite; nothing is noted."""
        return all(reader.sums(array).finite for reader, array in zip(self._readers, arrays, strict=True))

    def figures(self) -> ArmFigures:
        named = zip(self._readers, self._moments, strict=True)
        return ArmFigures(
            requests=self._requests,
            failures=self._failures,
            non_finite=self._non_finite,
            doubts=self._doubts,
            passed_over=self._passed_over,
            latency=LatencyCounts(counts=tuple(self._latency)),
            outputs={
                reader.name: OutputMoments(count=int(count), total=total, squares=squares)
                for reader, (count, total, squares) in named
                if count
            },
        )


class ShadowCounts:
    """Counts the requests that run on both versions. For one thread."""

    __slots__ = ("_dropped", "_failed", "_non_finite", "_outputs", "_pairs", "_readers")

    def __init__(self, readers: Sequence[OutputReader]) -> None:
        self._readers = readers
        self._pairs = self._dropped = self._failed = self._non_finite = 0
        self._outputs = [_AgreementCounts() for _ in readers]

    def note_pair(self, active: Sequence[NDArray[Any]], candidate: Sequence[NDArray[Any]]) -> None:
        """Note both versions' outputs for one request, in the order of the signature.

        Takes about 35 us for 64 rows of 10 floats, or one of 1000; 10 ms for a million float32, 16 for float64.
        """
        self._pairs += 1
        notes = [
            counts.note(reader.compare(one, other))
            for reader, counts, one, other in zip(self._readers, self._outputs, active, candidate, strict=True)
        ]
        self._non_finite += any(notes)

    def note_dropped(self) -> None:
        """Note a shadow that was not run for want of room."""
        self._dropped += 1

    def note_failed(self) -> None:
        """Note a shadow that failed, while the active version has answered."""
        self._failed += 1

    def figures(self) -> ShadowFigures:
        named = zip(self._readers, self._outputs, strict=True)
        return ShadowFigures(
            pairs=self._pairs,
            dropped=self._dropped,
            failed=self._failed,
            non_finite=self._non_finite,
            outputs={reader.name: counts.figures() for reader, counts in named} if self._pairs else {},
        )


class TrialCounts:
    """Counts one trial in one gateway. `outputs` are those of the model's signature."""

    __slots__ = ("active", "candidate", "shadow")

    def __init__(self, outputs: Iterable[TensorSpec]) -> None:
        readers = tuple(map(OutputReader, outputs))
        self.active = ArmCounts(readers)
        self.candidate = ArmCounts(readers)
        self.shadow = ShadowCounts(readers)

    def figures(self) -> TrialFigures:
        return TrialFigures(
            active=self.active.figures(), candidate=self.candidate.figures(), shadow=self.shadow.figures()
        )


class _AgreementCounts:
    __slots__ = ("_cosine", "_cosine_pairs", "_largest", "_rows", "_top1", "_top1_pairs")

    def __init__(self) -> None:
        self._rows = self._top1_pairs = self._cosine_pairs = 0
        self._top1 = self._cosine = self._largest = 0.0

    def note(self, found: PairComparison) -> bool:
        """Note it; returns whether it has spoilt rows."""
        self._rows += found.rows
        self._largest = max(self._largest, found.largest_difference)
        if found.top1 is not None:
            self._top1_pairs += 1
            self._top1 += found.top1
        if found.cosine is not None:
            self._cosine_pairs += 1
            self._cosine += found.cosine
        return found.spoilt > 0

    def figures(self) -> OutputAgreement:
        return OutputAgreement(
            rows=self._rows,
            top1_pairs=self._top1_pairs,
            top1=self._top1,
            cosine_pairs=self._cosine_pairs,
            cosine=self._cosine,
            largest_difference=self._largest,
        )
