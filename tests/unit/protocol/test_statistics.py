"""Sums of statistics, and their message in both protocols."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.protocol.grpc.messages import decode_message, encode_message
from aoti_serve.protocol.statistics import EXACT_ROWS, SUMMED, VersionStatistics, shown_rows, summed_by_version

numbers = st.integers(0, 2**50)
batches = st.dictionaries(st.integers(0, 256), st.lists(numbers, min_size=4, max_size=4), max_size=3)
rows = st.builds(VersionStatistics, st.integers(0, 3), numbers, **dict.fromkeys(SUMMED, numbers), batches=batches)


@given(st.integers(0, 2**40))
def test_runs_are_counted_by_their_rows_or_up_to_an_eighth_more(rows: int) -> None:
    assert shown_rows(rows) == rows or EXACT_ROWS < rows < shown_rows(rows) < rows * 1.125
    assert shown_rows(rows) <= shown_rows(rows + 1) == shown_rows(shown_rows(rows + 1))


@given(st.lists(rows))
def test_a_sum_is_that_of_each_number(parts: list[VersionStatistics]) -> None:
    found = summed_by_version(parts)
    assert [row.version for row in found] == sorted({part.version for part in parts})
    for name in SUMMED:
        assert sum(getattr(row, name) for row in found) == sum(getattr(part, name) for part in parts)
    runs = [sum(values[0] for row in some for values in row.batches.values()) for some in (found, parts)]
    assert runs[0] == runs[1]
    assert max((row.last_inference for row in found), default=0) == max((p.last_inference for p in parts), default=0)


@given(rows)
def test_a_copy_is_equal_and_apart(row: VersionStatistics) -> None:
    copied = row.copy()
    assert copied == row
    copied.add(row)
    assert all(getattr(copied, each.name) is not row.batches for each in fields(copied))


@given(rows)
def test_both_protocols_say_the_same(row: VersionStatistics) -> None:
    message = {"model_stats": [row.message("m")]}
    assert decode_message("ModelStatisticsResponse", encode_message("ModelStatisticsResponse", message)) == message


@given(rows)
def test_what_is_counted_for_each_request_rises_with_each(row: VersionStatistics) -> None:
    durations: dict[str, Any] = row.message("m")["inference_stats"]
    counts = {durations[name]["count"] for name in ("queue", "compute_input", "compute_infer", "compute_output")}
    assert counts == {row.success}
    assert durations["cache_hit"] == durations["cache_miss"] == {"count": 0, "ns": 0}
