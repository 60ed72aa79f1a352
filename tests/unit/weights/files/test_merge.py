"""A partial swap's file: the base with the changes, exactly, in a file that anybody can read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from aoti_serve.errors import StoreFailed
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files import index as files
from aoti_serve.weights.files.index import index_in, read_index
from aoti_serve.weights.files.merge import FilePart, merge_weights, parts_in

Arrays = dict[str, NDArray[Any]]

DTYPES = [np.float64, np.int8, np.float16, np.float32, np.bool_]


def merge(folder: Path, base: Arrays, changes: Arrays, tied: dict[str, str] | None = None) -> Path:
    save_file(base, folder / "base", metadata={"step": "1"})
    save_file(changes, folder / "changes")
    with (folder / "base").open("rb") as base_file, (folder / "changes").open("rb") as changes_file:
        stored = parts_in(base_file, read_index(folder / "base"))
        given = parts_in(changes_file, read_index(folder / "changes"))
        merge_weights(stored, given, folder / "target", tied or {})
    return folder / "target"


def assert_equal(path: Path, expected: Arrays) -> None:
    found = load_file(path)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@st.composite
def arrays(draw: st.DrawFn) -> Arrays:
    names = draw(st.lists(st.sampled_from(["a", "b.c", "ü", 'q"', "\n", "z" * 99]), unique=True, max_size=6))
    return {
        name: np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8).astype(
            draw(st.sampled_from(DTYPES))
        )
        for name in names
        for size in [draw(st.integers(0, 9))]
    }


@settings(max_examples=150)
@given(base=arrays(), changes=arrays(), piece=st.integers(1, 16))
def test_the_result_is_the_base_with_the_changes(
    tmp_path_factory: pytest.TempPathFactory, base: Arrays, changes: Arrays, piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHECK_CHUNK_BYTES", piece)
        path = merge(tmp_path_factory.getbasetemp(), base, changes)
    assert_equal(path, base | changes)
    for span in read_index(path).values():
        if span.dtype in ("float64", "float32", "float16"):
            assert span.begin % np.dtype(span.dtype).itemsize == 0, "each is aligned to its own size"


def test_the_header_is_padded_and_says_nothing_of_the_base_file(tmp_path: Path) -> None:
    path = merge(tmp_path, {"a": np.zeros(3, np.int8)}, {"b": np.zeros(3, np.float64)})
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert size % 8 == 0
    assert list(json.loads(content[8 : 8 + size])) == ["b", "a"]
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() is None


ONE, TWO = np.ones(4, np.float32), np.full(4, 2, np.float32)
TIED = {"head": "embed", "copy": "embed"}


@pytest.mark.parametrize("changed", ["embed", "head", "copy"])
def test_the_other_names_of_a_changed_constant_change_with_it(tmp_path: Path, changed: str) -> None:
    path = merge(tmp_path, {"embed": ONE, "head": ONE, "x": ONE}, {changed: TWO}, TIED)
    assert_equal(path, {"embed": TWO, "head": TWO, "x": ONE} | {changed: TWO})


def test_a_name_that_the_base_lacks_is_not_made_up(tmp_path: Path) -> None:
    path = merge(tmp_path, {"head": ONE}, {"embed": TWO}, TIED)
    assert_equal(path, {"head": TWO, "embed": TWO})


def test_changes_that_contradict_each_other_stay_to_be_found(tmp_path: Path) -> None:
    path = merge(tmp_path, {"embed": ONE, "head": ONE}, {"embed": TWO, "head": 2 * TWO}, TIED)
    assert_equal(path, {"embed": TWO, "head": 2 * TWO})


def test_a_dtype_that_cannot_be_served_is_passed_on(tmp_path: Path) -> None:
    header = json.dumps({"odd": {"dtype": "F8_E8M0", "shape": [3], "data_offsets": [0, 3]}}).encode()
    base = len(header).to_bytes(8, "little") + header + b"abc"
    merge_weights(parts_in(io.BytesIO(base), index_in(io.BytesIO(base), len(base))), {}, tmp_path / "target", {})
    found = read_index(tmp_path / "target")
    assert (found["odd"].dtype, found["odd"].shape) == ("F8_E8M0", (3,))
    assert (tmp_path / "target").read_bytes()[found["odd"].begin : found["odd"].end] == b"abc"


def test_a_base_that_ends_early_is_store_failed(tmp_path: Path) -> None:
    base = {"b": FilePart(io.BytesIO(b""), Span("float32", (2,), 0, 8))}
    with pytest.raises(StoreFailed, match="could not be merged: the file ends 8 bytes early"):
        merge_weights(base, {}, tmp_path / "target", {})


def test_a_target_that_cannot_be_written_is_store_failed(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="No such file"):
        merge_weights({}, {}, tmp_path / "gone" / "target", {})
