"""Histograms agree with counting by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.cluster.metrics.histogram import ROWS, BucketCounts


@given(st.lists(st.integers(0, 2000)), st.lists(st.integers(0, 2000)))
def test_buckets_hold_what_is_at_most_their_bound(one_by_one: list[int], together: list[int]) -> None:
    counts = BucketCounts(ROWS)
    for value in one_by_one:
        counts.note(value)
    counts.note_all(together)
    values = one_by_one + together
    found = dict(counts.cumulative())
    assert found.pop("+Inf") == counts.count == len(values)
    assert {float(bound): count for bound, count in found.items()} == {
        float(bound): sum(value <= bound for value in values) for bound in ROWS
    }
    assert counts.sum == sum(values)
