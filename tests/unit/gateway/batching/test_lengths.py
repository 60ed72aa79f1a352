"""Rows of different lengths in one batch: padded to the longest, where that costs less than another run."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import numpy as np
import pytest

from aoti_serve.config import BatchingConfig
from aoti_serve.gateway.batching.batcher import Batcher
from aoti_serve.gateway.batching.lengths import Company, RowPadding
from aoti_serve.gateway.batching.work_item import Arrays, Rows
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.link.messages import AnswerMessage
from aoti_serve.signature.padding import Padding, fill_value
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec
from tests.unit.clock import in_simulated_time, now, simulated

BATCH, LENGTH = Dim(symbol="batch", max=64), Dim(symbol="length", min=1, max=512)
MS = 1e-3


def signature_of(sizes: tuple[int, ...] = (), pad: int = -1) -> Signature:
    return Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(BATCH, LENGTH)),),
        outputs=(
            TensorSpec(name="y", dtype="float32", shape=(BATCH, LENGTH)),
            TensorSpec(name="sum", dtype="float32", shape=(BATCH,)),
        ),
        constants=(),
        padding=Padding(values={"x": pad}, sizes={"length": sizes} if sizes else {}),
    )


class Replica:
    """Doubles what it gets, and sums what is no padding. A run takes `fixed` seconds, and `each` for an element."""

    def __init__(self, fixed: float = 0.0, each: float = 0.0, pad: int = -1) -> None:
        self.batches: list[tuple[int, ...]] = []
        self._fixed, self._each, self._pad = fixed, each, pad

    async def run(self, arrays: Arrays, timeout: float | None) -> AnswerMessage:
        (x,) = arrays
        self.batches.append(x.shape)
        await asyncio.sleep(self._fixed + self._each * x.size)
        return AnswerMessage(1, 0, [x * 2, np.where(x == self._pad, 0, x).sum(1)])


def batcher_of(replica: Replica, signature: Signature, **config: Any) -> Batcher:
    made = Batcher(
        ModelFigures("m"), BatchingConfig(**config), replica.run, batches=True, lengths=RowPadding(signature)
    )
    made.runners = 1
    return made


def row(length: int, rows: int = 1) -> Arrays:
    return [np.arange(1, rows * length + 1, dtype=np.float32).reshape(rows, length)]


def check(sent: Arrays, rows: Rows) -> None:
    np.testing.assert_array_equal(rows.outputs[0], sent[0] * 2)
    np.testing.assert_array_equal(rows.outputs[1], sent[0].sum(1))


async def answered(batcher: Batcher, *requests: Arrays) -> None:
    """Ask all at once, and check every answer."""
    for sent, rows in zip(requests, await asyncio.gather(*[batcher.submit(each) for each in requests]), strict=True):
        check(sent, rows)


@in_simulated_time
async def test_rows_of_one_compiled_size_share_a_batch_and_are_padded_to_the_longest_of_them() -> None:
    replica = Replica(MS)
    batcher = batcher_of(replica, signature_of((32, 128)))
    await answered(batcher, row(7), row(3), row(31, rows=2), row(9))
    assert replica.batches == [(1, 7), (4, 31)]


@in_simulated_time
async def test_without_sizes_rows_of_about_one_length_share_a_batch() -> None:
    replica = Replica(MS)
    await answered(batcher_of(replica, signature_of()), row(1), row(97), row(110), row(112))
    assert replica.batches == [(1, 1), (3, 112)]


@in_simulated_time
async def test_another_length_joins_where_a_run_costs_more_than_padding() -> None:
    replica = Replica(fixed=10 * MS, each=0.001 * MS)
    batcher = batcher_of(replica, signature_of((32, 128)))
    for _ in range(3):  # in which costs are learned
        await answered(batcher, row(8))
        await answered(batcher, row(100))
    replica.batches.clear()
    await answered(batcher, row(5), row(20), row(100), row(24))
    assert replica.batches == [(1, 5), (3, 100)]


@in_simulated_time
async def test_another_length_stays_apart_where_padding_costs_more_than_a_run() -> None:
    replica = Replica(fixed=0.1 * MS, each=0.1 * MS)
    batcher = batcher_of(replica, signature_of((32, 128)))
    for _ in range(3):
        await answered(batcher, row(8, rows=4))
        await answered(batcher, row(100))
        await answered(batcher, row(100, rows=5))
    replica.batches.clear()
    await answered(batcher, row(5), row(20, rows=4), row(100))
    assert replica.batches == [(1, 5), (4, 20), (1, 100)]


@in_simulated_time
async def test_nobody_joins_while_another_runner_is_free() -> None:
    replica = Replica(fixed=10 * MS)
    batcher = batcher_of(replica, signature_of((32, 128)))
    for _ in range(3):
        await answered(batcher, row(8))
        await answered(batcher, row(100))
    replica.batches.clear()
    batcher.runners = 2
    began = now()
    await answered(batcher, row(5), row(100))
    assert replica.batches == [(1, 5), (1, 100)]
    assert now() - began < 11 * MS


@in_simulated_time
async def test_no_batch_is_larger_than_it_may_be_for_those_who_join() -> None:
    replica = Replica(fixed=10 * MS)
    batcher = batcher_of(replica, signature_of((32, 128, 512)), max_batch_size=8)
    for length in (8, 100, 300) * 3:
        await answered(batcher, row(length))
    replica.batches.clear()
    await answered(batcher, row(5), *[row(20)] * 4, *[row(100)] * 3, *[row(300)] * 3)
    assert replica.batches == [(1, 5), (8, 300), (2, 300)]


@in_simulated_time
async def test_a_large_request_shares_batches_with_other_lengths() -> None:
    replica = Replica(fixed=MS)
    batcher = batcher_of(replica, signature_of((32,)), max_batch_size=4)
    await answered(batcher, row(5), row(9, rows=11), row(30), row(2))
    assert max(rows for rows, _ in replica.batches) == 4


async def _rate(fixed: float, each: float, clients: int, joins: bool | None) -> float:
    """Answers per second of clients that ask again at once, with 3 to 200 elements in a row."""
    batcher, seconds = batcher_of(Replica(fixed, each), signature_of(), max_queue_wait_ms=3_600_000), 10.0
    if joins is not None:
        batcher._company.joins = lambda *_: joins  # type: ignore[method-assign]
    lengths = np.exp(np.random.default_rng(7).uniform(np.log(3), np.log(200), 4096)).round().astype(int)
    turns, answers = itertools.cycle(lengths), 0

    async def client() -> None:
        nonlocal answers
        while now() < seconds:
            await batcher.submit(row(int(next(turns))))
            answers += 1

    await asyncio.gather(*[client() for _ in range(clients)])
    return answers / seconds


@pytest.mark.parametrize("clients", [8, 64])
@pytest.mark.parametrize(
    ("fixed", "each"),
    [
        pytest.param(1 * MS, 0.5 * MS, id="an-encoder-on-a-core"),
        pytest.param(5 * MS, 0.05 * MS, id="small-runs"),
        pytest.param(50 * MS, 0.001 * MS, id="flat"),
    ],
)
def test_mixed_lengths_are_answered_as_fast_as_if_it_were_known_whether_joining_pays(
    fixed: float, each: float, clients: int
) -> None:
    apart, together, measured = (simulated(_rate(fixed, each, clients, joins)) for joins in (False, True, None))
    assert measured > 0.93 * max(apart, together)


def company(costs: dict[tuple[int, int], float], largest: int = 64) -> Company:
    """With measured seconds by rows and length."""
    made = Company(largest)
    for (rows, length), seconds in costs.items():
        made.note(rows, ((length,),), seconds)
    return made


@pytest.mark.parametrize(
    ("costs", "joins"),
    [
        pytest.param({(1, 32): 1.0, (1, 128): 2.0, (2, 128): 2.5}, True, id="cheaper"),
        pytest.param({(1, 32): 1.0, (1, 128): 2.0, (2, 128): 3.5}, False, id="dearer"),
        pytest.param({(1, 32): 1.0, (1, 128): 2.0, (2, 128): 2.95}, False, id="hardly-cheaper"),
        pytest.param({(1, 32): 1.9, (1, 128): 2.0}, True, id="together-unknown"),
        pytest.param({(1, 32): 0.5, (1, 128): 2.0}, False, id="together-unknown-and-hardly-better"),
        pytest.param({(1, 128): 2.0, (2, 128): 2.5}, False, id="apart-unknown"),
        pytest.param({}, False, id="nothing-known"),
        pytest.param({(1, 32): 0.32, (9, 128): 11.5, (40, 30): 12.0}, False, id="by-the-elements"),
        pytest.param({(1, 32): 1.0, (4, 128): 1.2, (8, 64): 1.2}, True, id="flat-by-the-elements"),
    ],
)
def test_costs_decide_and_what_is_not_known_is_tried(costs: dict[tuple[int, int], float], joins: bool) -> None:
    assert company(costs).joins(1, ((32,),), 1, ((128,),)) is joins
    assert company(costs).joins(1, ((128,),), 1, ((32,),)) is joins


def test_a_batch_is_never_mostly_padding_for_those_who_join() -> None:
    free = company({(1, 4): 1.0, (40, 4): 1.0, (1, 512): 1.0, (41, 512): 1.0})
    assert free.joins(1, ((4,),), 1, ((512,),))
    assert not free.joins(40, ((4,),), 1, ((512,),))


def test_now_and_then_nobody_joins() -> None:
    made = Company(8)
    assert [made.may_join() for _ in range(128)].count(False) == 2


@pytest.mark.parametrize(("dtype", "held"), [("float32", 1.0), ("bfloat16", 0x3F80), ("int64", 1)])
def test_raw_types_are_filled_with_their_bits(dtype: str, held: float) -> None:
    assert fill_value(TensorSpec(name="x", dtype=dtype, shape=(BATCH, LENGTH)), 1) == held
