"""The rules of counting: sums agree with what was noted, whatever comes in whatever order."""

from __future__ import annotations

import pickle
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.constants import RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH

from aoti_serve.gateway.figures.model_figures import GRPC, HTTP, ModelFigures
from aoti_serve.gateway.figures.outcomes import RequestOutcome
from aoti_serve.link.messages import RunFacts
from aoti_serve.protocol.statistics import KEPT_VERSIONS

versions = st.integers(0, 3)
answered = st.tuples(st.sampled_from((HTTP, GRPC)), versions, st.integers(0, 300), st.floats(0, 20))
refusals = [outcome for outcome in RequestOutcome if outcome is not RequestOutcome.OK]
unanswered = st.tuples(st.sampled_from((HTTP, GRPC)), st.sampled_from(refusals), st.floats(0, 20))
nanoseconds = st.integers(0, 10**9)
facts = st.builds(RunFacts, nanoseconds, nanoseconds, nanoseconds, nanoseconds, st.integers(0, 31))
runs = st.tuples(versions, st.integers(0, 256), st.lists(st.floats(0, 2), max_size=5), facts)


def total(figures: ModelFigures, name: str) -> int:
    return sum(getattr(row, name) for row in figures.versions.values())


@given(st.lists(answered), st.lists(unanswered), st.lists(runs))
def test_sums_agree_with_what_was_noted(
    well: list[tuple[str, int, int, float]], badly: list[tuple[str, RequestOutcome, float]], ran: list[Any]
) -> None:
    figures = ModelFigures("m")
    figures.current = 2
    for request in well:
        figures.note_answered(*request)
    for refused in badly:
        figures.note_unanswered(*refused)
    for version, rows, waits, run in ran:
        figures.note_run(version, rows, len(waits), waits, run)
    assert (total(figures, "success"), total(figures, "fail")) == (len(well), len(badly))
    assert sum(figures.requests.values()) == len(well) + len(badly)
    assert sum(counts.count for counts in figures.latency.values()) == len(well)
    assert total(figures, "inference_count") == sum(rows for _, _, rows, _ in well)
    assert total(figures, "execution_count") == len(ran) == figures.run_time.count == figures.batch_rows().count
    assert figures.batch_rows().sum == sum(rows for _, rows, _, _ in ran)
    assert figures.padding.sum == sum(run.padding for *_, run in ran)
    assert figures.queued.count == sum(len(waits) for _, _, waits, _ in ran)
    assert total(figures, "compute_infer_ns") == sum(len(waits) * run.infer_ns for _, _, waits, run in ran)
    for row in figures.versions.values():
        assert sum(numbers[0] for numbers in row.batches.values()) == row.execution_count


def test_the_version_that_answers_has_a_row_before_it_was_asked() -> None:
    figures = ModelFigures("m")
    assert figures.statistics() == []
    figures.current = 7
    assert [row.version for row in figures.statistics()] == [7]


def test_what_is_refused_before_a_version_is_known_belongs_to_none() -> None:
    figures = ModelFigures("m")
    figures.note_unanswered(HTTP, RequestOutcome.UNAVAILABLE, 0.1)
    assert figures.requests == {(HTTP, None, RequestOutcome.UNAVAILABLE): 1}
    assert figures.versions == {}


def test_requests_of_versions_without_a_row_of_their_own_are_of_none() -> None:
    figures = ModelFigures("m")
    for version in range(1, 2 * KEPT_VERSIONS + 1):
        figures.current = version
        figures.note_answered(HTTP, version, 1, 0.1)
        figures.note_answered(GRPC, version, 1, 0.1)
        figures.note_unanswered(HTTP, RequestOutcome.INVALID, 0.1)
    own = {(HTTP, RequestOutcome.OK), (GRPC, RequestOutcome.OK), (HTTP, RequestOutcome.INVALID)}
    assert {kind[1] for kind in figures.requests} == {None, *figures.versions}
    assert len(figures.requests) == len(own) * (KEPT_VERSIONS + 1)
    for protocol, outcome in own:
        assert figures.requests[protocol, None, outcome] == KEPT_VERSIONS
        assert sum(n for kind, n in figures.requests.items() if kind[::2] == (protocol, outcome)) == 2 * KEPT_VERSIONS


def test_all_that_is_kept_fits_into_one_message_whatever_runs_there_were() -> None:
    figures, long = ModelFigures("m"), RunFacts(*[2**45] * 4)
    for rows in range(1, 2**16 + 1):
        figures.note_run(1, rows, 1, [], long)
    batches = figures.versions[1].batches
    assert sum(numbers[0] for numbers in batches.values()) == 2**16
    told = [figures.versions[1].copy() for _ in range(KEPT_VERSIONS)]
    assert len(pickle.dumps(told)) < RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH
