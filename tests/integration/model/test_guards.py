from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from aoti_serve.model.program.guards import guard_indices
from aoti_serve.signature.signature import IndexGuard

ROWS, COLUMNS = 5, 3
HUGE, TINY = 2**63 - 1, -(2**63)
OPTIONS = {
    "always_keep_tensor_constants": True,
    "aot_inductor.package_constants_in_so": False,
    "cpp.dynamic_threads": True,
}
Op = Callable[..., Any]


class Indexing(nn.Module):
    """A table of 5 rows of 3, and whatever is done with it."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.op = op
        self.table = nn.Parameter(torch.arange(ROWS * COLUMNS, dtype=torch.float32).reshape(ROWS, COLUMNS))

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.op(self.table, *inputs)


class Several(nn.Module):
    """Four ways to index, by ids of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(ROWS, COLUMNS, padding_idx=0)
        self.bag = nn.EmbeddingBag(7, COLUMNS)
        self.table = nn.Parameter(torch.randn(ROWS, COLUMNS))

    def forward(self, ids: torch.Tensor, scores: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = self.words(ids).sum(1) + self.table[ids].sum(1)
        return {"sum": rows + self.bag(ids), "picked": scores.gather(1, ids)}


def exported(module: nn.Module, inputs: tuple[torch.Tensor, ...], shapes: Any = None) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module.eval(), inputs, dynamic_shapes=shapes)


def batched(op: Op, *inputs: torch.Tensor) -> tuple[ExportedProgram, ExportedProgram]:
    """The program and its guarded twin, with a dynamic batch that may be empty."""
    batch = Dim("batch", min=0, max=64)
    shapes = {"inputs": tuple({0: batch} for _ in inputs)}
    program, twin = exported(Indexing(op), inputs, shapes), exported(Indexing(op), inputs, shapes)
    guard_indices(twin)
    return program, twin


def longs(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


IDS = longs(0, 4, 2, 1)
ONES = torch.ones(4, COLUMNS)
ALONG = {  # what the operator is, and whether negative indices count from the end
    "embedding": (lambda t, i: F.embedding(i, t, padding_idx=1), False),
    "embedding_max_norm": (lambda t, i: F.embedding(i, t.clone(), max_norm=1.0), False),
    "embedding_bag": (lambda t, i: F.embedding_bag(i[:, None], t, mode="mean"), False),
    "embedding_bag_padding": (lambda t, i: F.embedding_bag(i[:, None], t, padding_idx=2), False),
    "index": (lambda t, i: t[i], True),
    "index_unsafe": (lambda t, i: torch.ops.aten._unsafe_index(t, [i]), True),
    "index_second": (lambda t, i: t.T[:, i], True),
    "index_matrix": (lambda t, i: t[i[:, None].expand(-1, 2)], True),
    "index_put": (lambda t, i: t.index_put((i,), torch.ones(COLUMNS)), True),
    "index_put_": (lambda t, i: t.clone().index_put_((i,), torch.ones(COLUMNS), accumulate=True), True),
    "setitem": (lambda t, i: _set_rows(t.clone(), i), True),
    "gather": (lambda t, i: t.gather(0, i[:, None]), False),
    "gather_last": (lambda t, i: t.T.gather(-1, i[None].expand(COLUMNS, -1)), False),
    "gather_keywords": (lambda t, i: torch.gather(input=t, dim=0, index=i[:, None]), False),
    "scatter": (lambda t, i: t.scatter(0, i[:, None], 7.0), False),
    "scatter_": (lambda t, i: t.clone().scatter_(0, i[:, None], torch.ones(ROWS + 60, 1)), False),
    "scatter_add": (lambda t, i: t.scatter_add(0, i[:, None], torch.ones(ROWS + 60, 1)), False),
    "scatter_reduce": (lambda t, i: t.scatter_reduce(0, i[:, None], torch.ones(65, 1), "amax"), False),
    "index_select": (lambda t, i: t.index_select(0, i), False),
    "index_add": (lambda t, i: t.index_add(0, i, torch.ones(i.shape[0], COLUMNS)), False),
    "index_add_": (lambda t, i: t.clone().index_add_(0, i, torch.ones(i.shape[0], COLUMNS)), False),
    "index_copy": (lambda t, i: t.index_copy(0, i, torch.ones(i.shape[0], COLUMNS)), False),
    "index_fill": (lambda t, i: t.index_fill(0, i, 9.0), True),
    "index_reduce": (lambda t, i: t.index_reduce(0, i, torch.ones(i.shape[0], COLUMNS), "amin"), False),
    "take": (lambda t, i: t[:, 0].take(i), True),
    "put": (lambda t, i: t[:, 0].clone().put_(i, torch.ones(i.shape[0])), True),
    "take_along_dim": (lambda t, i: torch.take_along_dim(t, i[:, None], 0), False),
    "one_hot": (lambda t, i: F.one_hot(i, ROWS), False),
}


def _set_rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    table[index] = 5.0
    return table


@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
@pytest.mark.parametrize("name", ALONG)
def test_a_guard_leaves_good_indices_alone_and_reports_bad_ones(name: str) -> None:
    op, wraps = ALONG[name]
    program, twin = batched(op, IDS)
    good = [longs(), longs(0, 0), longs(4, 0, 1, 2, 3)] + ([longs(-5, -1)] if wraps else [])
    for ids in good:
        outputs, flags = twin.module()(ids)
        assert torch.equal(outputs, program.module()(ids))
        assert flags.tolist() == [False] * len(flags)
    for bad in (5, HUGE, TINY, -6, *(() if wraps else (-1,))):
        flags = twin.module()(longs(1, bad, 2))[1]
        assert flags.dtype == torch.bool
        assert flags.tolist() == [True] * len(flags)


def test_a_guard_tells_inputs_table_and_range() -> None:
    program = exported(Several(), (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 9)))
    guards = guard_indices(program)
    assert guards == (
        IndexGuard(inputs=("ids",), table="words.weight", low=0, high=ROWS - 1),
        IndexGuard(inputs=("ids",), table="table", low=-ROWS, high=ROWS - 1),
        IndexGuard(inputs=("ids",), table="bag.weight", low=0, high=6),
        IndexGuard(inputs=("ids",), table="scores", low=0, high=8),
    )
    assert [IndexGuard.model_validate_json(guard.model_dump_json()) for guard in guards] == list(guards)


def test_a_flag_is_set_for_the_guard_that_is_hit_only() -> None:
    program = exported(Several(), (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 9)))
    guard_indices(program)
    assert program.module()(torch.full((2, 2), 6), torch.zeros(2, 9))[1].tolist() == [True, True, False, False]
    assert program.module()(torch.full((2, 2), -1), torch.zeros(2, 9))[1].tolist() == [True, False, True, True]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_indices_keep_their_dtype(dtype: torch.dtype) -> None:
    program, twin = batched(lambda t, i: (t[i], F.embedding(i, t), F.embedding_bag(i[:, None], t)), IDS.to(dtype))
    ids = torch.tensor([3, 1], dtype=dtype)
    (*outputs,), flags = twin.module()(ids)
    assert all(torch.equal(*pair) for pair in zip(outputs, program.module()(ids), strict=True))
    assert not flags.any()
    assert twin.module()(torch.tensor([3, torch.iinfo(dtype).max], dtype=dtype))[1].all()


def test_each_index_of_a_list_is_held_to_its_own_dimension() -> None:
    block = torch.randn(4, 2, 6, 3)
    program = exported(Indexing(lambda t, x, i, j: x[:, i, :, j]), (block, longs(0, 1), longs(2, 2)))
    guards = guard_indices(program)
    assert [(guard.inputs, guard.high) for guard in guards] == [(("inputs_1",), 1), (("inputs_2",), 2)]
    outputs, flags = program.module()(block, longs(-2, 1), longs(2, -3))
    assert torch.equal(outputs, block[:, [-2, 1], :, [2, -3]])
    assert not flags.any()
    assert program.module()(block, longs(0, 1), longs(0, 3))[1].tolist() == [False, True]


def test_masks_are_not_guarded_and_take_up_their_dimensions() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    op: Op = lambda t, x, m, i: torch.ops.aten.index_put(x, [m, i], torch.zeros(()))  # noqa: E731
    block, ids = torch.randn(2, 2, 9), longs(8, 3)
    program = exported(Indexing(op), (block, mask, ids))
    assert [(guard.inputs, guard.high) for guard in guard_indices(program)] == [(("inputs_2",), 8)]
    expected = block.clone()
    expected[mask, ids] = 0
    assert torch.equal(program.module()(block, mask, ids)[0], expected)


def test_a_dynamic_dimension_bounds_its_index() -> None:
    rows, other = Dim("rows", min=1, max=50), Dim("other", min=1, max=50)
    module = Indexing(lambda t, x, i: (x[i], x.take(i), F.embedding(i, x)))
    program = exported(module, (torch.randn(7, 2), longs(1, 2)), {"inputs": ({0: rows}, {0: other})})
    guards = guard_indices(program)
    assert {(guard.table, guard.low, guard.high) for guard in guards} == {
        ("inputs_0", None, None),
        ("inputs_0", 0, None),
    }
    x = torch.randn(3, 2)
    outputs, flags = program.module()(x, longs(2, 0, 1))
    assert torch.equal(outputs[0], x[[2, 0, 1]])
    assert flags.tolist() == [False, False, False]
    assert program.module()(x, longs(3))[1].tolist() == [True, False, True]
    assert program.module()(x, longs(-3))[1].tolist() == [False, False, True]


def test_what_no_input_decides_is_not_guarded() -> None:
    module = Indexing(lambda t, x: t[torch.arange(x.shape[0])] + t[torch.ones_like(x).long()])
    program = exported(module, (torch.zeros(4),))
    before = str(program.graph), str(program.graph_signature), program.call_spec.out_spec
    assert guard_indices(program) == ()
    assert (str(program.graph), str(program.graph_signature), program.call_spec.out_spec) == before
    assert isinstance(program.module()(torch.zeros(4)), torch.Tensor)


def test_an_index_that_weights_may_bring_is_guarded() -> None:
    program = exported(Indexing(lambda t, x: t[longs(1, 2, 3, 4)] + x.sum()), (torch.zeros(4),))
    assert guard_indices(program) == (IndexGuard(inputs=("lifted_tensor_0",), table="table", low=-ROWS, high=ROWS - 1),)


def test_equal_guards_are_one() -> None:
    program = exported(Indexing(lambda t, i: (F.embedding(i, t), F.embedding(i, t * 2), t.index_select(0, i))), (IDS,))
    assert guard_indices(program) == (IndexGuard(inputs=("inputs_0",), table="table", low=0, high=4),)
    assert sum(node.target is torch.ops.aten.clamp.default for node in program.graph.nodes) == 1


def test_an_index_written_in_place_is_guarded_anew() -> None:
    def op(table: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.zeros(4, dtype=torch.int64)
        index.view(2, 2)[0].copy_(ids[:2])
        first = table[index]
        index += 2
        return first, table[index]

    program = exported(Indexing(op), (IDS,))
    assert len(guard_indices(program)) == 2
    outputs, flags = program.module()(longs(2, 1, 9, 9))
    assert not flags.any()
    assert torch.equal(outputs[1][:, 0], torch.tensor([12.0, 9.0, 6.0, 6.0]))
    assert program.module()(longs(3, 1, 0, 0))[1].tolist() == [False, True]
    assert program.module()(longs(-7, 1, 0, 0))[1].tolist() == [True, False]


def test_a_number_taken_from_an_input_is_guarded_where_it_indexes() -> None:
    program = exported(Indexing(lambda t, i: t[i[0]] + 1), (IDS,))
    assert guard_indices(program) == (IndexGuard(inputs=("inputs_0",), table="table", low=-5, high=4),)
    outputs, flags = program.module()(longs(-2, 0, 0, 0))
    assert torch.equal(outputs, torch.tensor([10.0, 11.0, 12.0]))
    assert not flags.any()
    assert program.module()(longs(HUGE, 0, 0, 0))[1].tolist() == [True]


def test_guards_reach_into_autocast_and_grad_blocks() -> None:
    def op(table: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first = F.embedding(ids, table) @ table.T
        with torch.enable_grad():
            return first, table[ids]

    program, twin = batched(op, IDS)
    outputs, flags = twin.module()(IDS)
    assert all(torch.equal(*pair) for pair in zip(outputs, program.module()(IDS), strict=True))
    assert flags.tolist() == [False, False]
    assert twin.module()(longs(0, -1))[1].tolist() == [True, False]


def test_the_flags_come_after_an_input_that_is_written_to() -> None:
    program = exported(Indexing(lambda t, x, i: x.index_fill_(0, i, 0.0) * 2), (torch.ones(5), longs(1, 2)))
    guard_indices(program)
    x = torch.ones(5)
    outputs, flags = program.module()(x, longs(1, -1))
    assert x.tolist() == [1, 0, 1, 1, 0]
    assert outputs.tolist() == [2, 0, 2, 2, 0]
    assert flags.tolist() == [False]
    assert list(program.graph.output_node().args[0])[-1].name == program.graph_signature.output_specs[-1].arg.name


@pytest.fixture(scope="module")
def several() -> tuple[Any, Any]:
    batch = Dim("batch", min=0, max=64)
    inputs = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 9)
    shapes = {"ids": {0: batch}, "scores": {0: batch}}
    module = Several()
    program, twin = exported(module, inputs, shapes), exported(module, inputs, shapes)
    guard_indices(twin)
    return program.module(), twin.module()


@settings(max_examples=60)
@given(rows=st.lists(st.lists(st.integers(-7, 10), min_size=2, max_size=2), max_size=6))
def test_random_ids_are_answered_as_before_or_flagged(several: tuple[Any, Any], rows: list[list[int]]) -> None:
    program, twin = several
    ids = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
    scores = torch.randn(len(rows), 9)
    outputs, flags = twin(ids, scores)
    lows, highs = longs(0, -5, 0, 0)[:, None, None], longs(4, 4, 6, 8)[:, None, None]
    assert flags.tolist() == ((ids < lows) | (ids > highs)).flatten(1).any(1).tolist()
    if not flags.any():
        expected = program(ids, scores)
        assert all(torch.equal(outputs[name], expected[name]) for name in expected)


CHILD = """
import sys, torch
package, (weights, questions) = sys.argv[1], torch.load(sys.argv[2])
model = torch._inductor.aoti_load_package(package)
model.load_constants(weights, check_full_update=True)
print("loaded", flush=True)
torch.save([model(*question) for question in questions], sys.argv[3])
"""


def asked(package: Path, module: nn.Module, questions: list[tuple[torch.Tensor, ...]]) -> tuple[int, str, list[Any]]:
    """Put the questions to the package in a process of its own: how it ended, what it said, its answers."""
    put, got = package.with_suffix(".in"), package.with_suffix(".out")
    torch.save((dict(module.state_dict()), questions), put)
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(package), str(put), str(got)], check=False, capture_output=True, timeout=120
    )
    return ended.returncode, ended.stdout.decode(), torch.load(got) if got.exists() else []


def compiled(program: ExportedProgram, path: Path) -> Path:
    return Path(torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=OPTIONS))


def test_a_bad_index_kills_a_package_and_not_its_guarded_twin(tmp_path: Path) -> None:
    batch = Dim("batch", min=1, max=64)
    inputs = torch.randint(0, ROWS, (3, 2)), torch.randn(3, 9)
    shapes = {"ids": {0: batch}, "scores": {0: batch}}
    module = Several()
    raw, twin = exported(module, inputs, shapes), exported(module, inputs, shapes)
    guard_indices(twin)
    good = torch.randint(0, ROWS, (40, 2)), torch.randn(40, 9)
    # The raw package is asked for a row that its bag has: the bag's kernel, called first, would only raise.
    bad = [(torch.full((40, 2), value), good[1]) for value in (5, -1, HUGE, TINY)]

    code, said, answers = asked(compiled(raw, tmp_path / "raw.pt2"), module, [bad[0], good])
    assert (said, answers) == ("loaded\n", [])
    assert code in {-signal.SIGABRT, -signal.SIGSEGV}

    code, _, answers = asked(compiled(twin, tmp_path / "twin.pt2"), module, [good, *bad, good])
    assert code == 0
    flags = [answer[1].tolist() for answer in answers]
    no, yes = [False] * 4, [True] * 4
    assert flags == [no, [True, True, False, False], [True, False, True, True], yes, yes, no]
    for answer in (answers[0], answers[-1]):
        torch.testing.assert_close(answer[0], module(*good))
