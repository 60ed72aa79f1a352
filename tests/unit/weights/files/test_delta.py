"""A delta merged into its base: what numpy's assignment makes of the tensor, in a whole file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from aoti_serve.errors import UnfitTensor, UnreadableWeights
from aoti_serve.weights.files import index as files
from aoti_serve.weights.files import sparse
from aoti_serve.weights.files.delta import base_digest_in, delta_parts
from aoti_serve.weights.files.index import read_index
from aoti_serve.weights.files.merge import merge_weights, parts_in

Arrays = dict[str, NDArray[Any]]
DTYPES = [np.float64, np.float32, np.float16, np.int8, np.bool_]


def merged(folder: Path, base: Arrays, delta: Arrays, tied: dict[str, str] | None = None) -> Arrays:
    save_file(base, folder / "base")
    save_file(delta, folder / "delta")
    with (folder / "base").open("rb") as base_file, (folder / "delta").open("rb") as delta_file:
        stored = parts_in(base_file, read_index(folder / "base"))
        changes = delta_parts(parts_in(delta_file, read_index(folder / "delta")), stored, tied or {})
        merge_weights(stored, changes, folder / "target", tied or {})
    return load_file(folder / "target")


def assert_equal(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def drawn(draw: st.DrawFn, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    content = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is np.bool_:
        content = bytearray(byte % 2 for byte in content)
    return np.frombuffer(content, dtype).reshape(shape)


@st.composite
def changed(draw: st.DrawFn) -> tuple[Arrays, Arrays, Arrays]:
    """A base, a delta, and what numpy makes of both."""
    base: Arrays = {}
    delta: Arrays = {}
    expected: Arrays = {}
    for name in draw(st.lists(st.sampled_from(["a", "b.c", "ü", "x::y", "::rows"]), unique=True, max_size=3)):
        dtype, shape = draw(st.sampled_from(DTYPES)), tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        base[name] = expected[name] = drawn(draw, shape, dtype)
        kind = draw(st.sampled_from(["rows", "elements", "nothing"]))
        if kind == "nothing" or (kind == "rows" and not shape):
            continue
        unit = shape[1:] if kind == "rows" else ()
        count = shape[0] if kind == "rows" else int(np.prod(shape))
        chosen = sorted(draw(st.sets(st.integers(0, count - 1))) if count else [])
        values = drawn(draw, (len(chosen), *unit), dtype)
        new = base[name].copy()
        (new if kind == "rows" else new.reshape(-1))[chosen] = values
        delta |= {f"{name}::{kind}": np.array(chosen, np.int64), f"{name}::values": values}
        expected[name] = new
    return base, delta, expected


@settings(max_examples=300)
@given(case=changed(), piece=st.integers(1, 40))
def test_the_result_is_what_numpy_makes_of_it(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[Arrays, Arrays, Arrays], piece: int
) -> None:
    base, delta, expected = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHECK_CHUNK_BYTES", piece)
        patch.setattr(sparse, "CHECK_CHUNK_BYTES", piece)
        assert_equal(merged(tmp_path_factory.getbasetemp(), base, delta), expected)


TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
ROWS, VALUES = np.array([1, 3]), np.full((2, 3), 7, np.float32)
NEW = TABLE.copy()
NEW[ROWS] = VALUES


def test_whole_tensors_may_come_along(tmp_path: Path) -> None:
    base: Arrays = {"table": TABLE, "bias": np.zeros(3, np.float32), "rest": np.ones(1)}
    delta: Arrays = {"table::rows": ROWS, "table::values": VALUES, "bias": np.ones(3, np.float32)}
    expected: Arrays = {"table": NEW, "bias": np.ones(3, np.float32), "rest": np.ones(1)}
    assert_equal(merged(tmp_path, base, delta), expected)


@pytest.mark.parametrize("held", [["embed", "head"], ["head"], ["embed"]])
@pytest.mark.parametrize("changed", ["embed", "head"])
def test_the_other_names_of_a_constant_change_with_it(tmp_path: Path, held: list[str], changed: str) -> None:
    delta: Arrays = {f"{changed}::rows": ROWS, f"{changed}::values": VALUES}
    found = merged(tmp_path, dict.fromkeys(held, TABLE), delta, {"head": "embed"})
    assert_equal(found, dict.fromkeys([*held, changed], NEW))


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        ({"rows": np.array([0, 4])}, "tensor 'table::rows': 4 is none of the 4 that there are"),
        ({"rows": np.array([-1, 2])}, "tensor 'table::rows': -1 is none of the 4"),
        ({"rows": np.array([-(2**63), 2**63 - 1])}, r"tensor 'table::rows': -\d+ is none of the 4"),
        ({"rows": np.array([2, 1])}, "tensor 'table::rows': 1 comes after 2: sort them, each once"),
        ({"rows": np.array([2, 2])}, "tensor 'table::rows': 2 comes after 2"),
        ({"rows": np.array([1, 2], np.int32)}, r"tensor 'table::rows': int32 \[2\]: the numbers of rows are int64"),
        ({"rows": np.array([[1, 2]])}, r"tensor 'table::rows': int64 \[1, 2\]: the numbers of rows are int64 \[k\]"),
        ({"rows": np.arange(3)}, r"'table::values': float32 \[2, 3\]: the values of these rows are float32 \[3, 3\]"),
        ({"values": np.zeros((2, 3))}, r"'table::values': float64 \[2, 3\]: .* float32 \[2, 3\]"),
        ({"values": np.zeros((2, 2), np.float32)}, r"'table::values': float32 \[2, 2\]: .* float32 \[2, 3\]"),
        ({"values": np.zeros(6, np.float32)}, r"'table::values': float32 \[6\]: .* are float32 \[2, 3\]"),
        ({"rows": None}, "tensor 'table': of its changes there are values: send rows or elements, and values"),
        ({"values": None}, "tensor 'table': of its changes there are rows: send"),
        ({"elements": np.array([1])}, "tensor 'table': of its changes there are elements and rows and values"),
        ({"rows": None, "elements": np.array([1, 12]), "values": VALUES.ravel()[:2]}, "'table::elements': 12 is none"),
        (
            {"rows": None, "elements": np.array([1, 2])},
            r"'table::values': float32 \[2, 3\]: .* elements are float32 \[2\]",
        ),
    ],
)
def test_what_cannot_be_merged_is_named(tmp_path: Path, delta: dict[str, Any], said: str) -> None:
    parts = {"rows": ROWS, "values": VALUES} | delta
    given = {f"table::{kind}": array for kind, array in parts.items() if array is not None}
    with pytest.raises(UnfitTensor, match=said):
        merged(tmp_path, {"table": TABLE}, given)


def test_a_tensor_comes_in_one_way(tmp_path: Path) -> None:
    with pytest.raises(UnfitTensor, match="tensor 'table': it comes whole and in parts"):
        merged(tmp_path, {"table": TABLE}, {"table::rows": ROWS, "table::values": VALUES, "table": TABLE})


def test_what_the_base_does_not_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnfitTensor, match="tensor 'tabel': the version that the delta changes does not hold it"):
        merged(tmp_path, {"table": TABLE}, {"tabel::rows": ROWS, "tabel::values": VALUES})


def test_a_scalar_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(UnfitTensor, match="'s::rows': the tensor has no dimension"):
        merged(tmp_path, {"s": np.array(1.0)}, {"s::rows": np.array([0]), "s::values": np.array([2.0])})


def test_a_row_that_is_too_large_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aoti_serve.weights.files.delta.MAX_UNIT_BYTES", 11)
    with pytest.raises(UnfitTensor, match="tensor 'table': a row of it has 12 bytes, and more than 11 are not merged"):
        merged(tmp_path, {"table": TABLE}, {"table::rows": ROWS, "table::values": VALUES})


def test_the_order_is_checked_across_the_pieces_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "CHECK_CHUNK_BYTES", 8)
    with pytest.raises(UnfitTensor, match="'table::rows': 1 comes after 3"):
        merged(tmp_path, {"table": TABLE}, {"table::rows": np.array([3, 1]), "table::values": VALUES})


def test_the_digest_stands_in_the_files_metadata(tmp_path: Path) -> None:
    save_file({"a": TABLE}, tmp_path / "with", metadata={"base_digest": "AB", "step": "1"})
    assert base_digest_in(tmp_path / "with") == "ab"
    save_file({"a": TABLE}, tmp_path / "without")
    with pytest.raises(UnreadableWeights, match="a delta needs `base_digest` in its __metadata__"):
        base_digest_in(tmp_path / "without")
