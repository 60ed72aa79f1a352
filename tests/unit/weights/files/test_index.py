"""The header that weights are sent under is one that safetensors reads."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load

from aoti_serve.signature.tensors import DTYPES, Shaped, Span
from aoti_serve.weights.files.index import file_order, header_of

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter("__metadata__".__ne__)
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
TENSORS = st.dictionaries(NAMES, st.builds(Shaped, st.sampled_from(sorted(DTYPES)), SHAPES), max_size=6)


def _nbytes(tensor: Shaped) -> int:
    return math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize


def _spans(tensors: dict[str, Shaped]) -> dict[str, Span]:
    return {name: Span(*tensor, 0, _nbytes(tensor)) for name, tensor in tensors.items()}


def _file_of(tensors: dict[str, Shaped]) -> tuple[bytes, dict[str, bytes]]:
    """A whole file, each tensor filled with its place in the order; and the bytes of each."""
    parts = {name: bytes([place]) * _nbytes(tensors[name]) for place, name in enumerate(file_order(tensors))}
    return header_of(_spans(tensors)) + b"".join(parts.values()), parts


@given(TENSORS)
def test_safetensors_reads_back_names_dtypes_shapes_and_bytes(tensors: dict[str, Shaped]) -> None:
    content, parts = _file_of(tensors)
    read = load(content)
    assert set(read) == set(tensors)
    for name, tensor in read.items():
        assert Shaped(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) == tensors[name]
        assert bytes(tensor.flatten().view(torch.uint8).tolist()) == parts[name]


@given(TENSORS)
def test_every_tensor_is_aligned_to_its_own_dtype(tensors: dict[str, Shaped]) -> None:
    header = header_of(_spans(tensors))
    assert len(header) % 8 == 0
    for entry in json.loads(header[8:]).values():
        begin, _ = entry["data_offsets"]
        itemsize = next(dtype.itemsize for dtype in DTYPES.values() if dtype.safetensors == entry["dtype"])
        assert (len(header) + begin) % itemsize == 0


@given(TENSORS)
def test_the_order_does_not_depend_on_who_asks(tensors: dict[str, Shaped]) -> None:
    backwards = dict(reversed(tensors.items()))
    assert file_order(tensors) == file_order(backwards)
    assert header_of(_spans(tensors)) == header_of(_spans(backwards))


def test_it_is_a_file(tmp_path: Path) -> None:
    content, _ = _file_of({"a": Shaped("float32", (2, 3)), "b": Shaped("bool", ()), "c": Shaped("bfloat16", (0,))})
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with safe_open(path, framework="np") as file:
        assert sorted(file.keys()) == ["a", "b", "c"]


def test_nothing_at_all_is_a_file_too() -> None:
    assert load(header_of({})) == {}
