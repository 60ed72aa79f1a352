"""The file of golden requests: what is written is read, and what is none is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

from aoti_serve.errors import UnfitGolden, UnreadableGolden
from aoti_serve.signature.golden import file as golden_file
from aoti_serve.signature.golden.file import golden_bytes, parse_golden, read_golden, save_golden
from aoti_serve.signature.golden.request import GoldenRequest

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def content(bounds: Any = None, **tensors: Any) -> bytes:
    known = {"one/inputs/x": X, "one/outputs/y": X, "two/inputs/x": X, "two/outputs/y": X}
    found = {name.replace("__", "/"): tensor for name, tensor in tensors.items()}
    metadata = {} if bounds is None else {"bounds": bounds if isinstance(bounds, str) else json.dumps(bounds)}
    written: bytes = save({name: tensor for name, tensor in (known | found).items() if tensor is not None}, metadata)
    return written


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = [
        GoldenRequest(
            "b", {"x": X, "flags": np.array([True])}, {"y/0": X.astype(ml_dtypes.bfloat16)}, {"y/0": {"cosine": 1}}
        ),
        GoldenRequest("a", {"x": X}, bounds={"z": {"range": (0, 9)}}),
        GoldenRequest("c", {"scalar": np.float64(2), "empty": np.zeros((0, 3), ml_dtypes.float8_e5m2)}),
    ]
    save_golden(made, tmp_path / "golden.safetensors")
    read = read_golden(tmp_path / "golden.safetensors")
    assert [request.name for request in read] == ["a", "b", "c"]
    for request, wanted in zip(read, sorted(made, key=lambda one: one.name), strict=True):
        assert request.bounds == wanted.bounds
        for found, given in ((request.inputs, wanted.inputs), (request.outputs, wanted.outputs)):
            assert found.keys() == given.keys()
            assert all(found[name].dtype == given[name].dtype for name in found)
            assert all(np.array_equal(found[name], given[name]) for name in found)


def test_bounds_of_all_requests_give_way_to_a_requests_own() -> None:
    bounds = {"*": {"y": {"cosine": 0.9}, "z": {"range": [0, 1]}}, "two": {"y": {"top1": 1}}}
    one, two = parse_golden(content(bounds))
    assert (one.bounds["y"].cosine, one.bounds["z"].range) == (0.9, (0, 1))
    assert (two.bounds["y"].cosine, two.bounds["y"].top1, two.bounds["z"].range) == (None, 1, (0, 1))


def test_bounds_of_all_requests_that_one_cannot_keep_to_are_refused() -> None:
    with pytest.raises(UnfitGolden, match="'two': output 'y' has a bound that compares, and no expected output"):
        parse_golden(content({"*": {"y": {"cosine": 0.9}}}, two__outputs__y=None))


@pytest.mark.parametrize(
    ("bounds", "tensors", "says"),
    [
        ({"*": {"y": {"cosine": 1}}}, {"x": X}, "tensor 'x' is not called <request>/inputs/<name>"),
        ({"*": {"y": {"cosine": 1}}}, {"one__input__x": X}, "tensor 'one/input/x' is not called"),
        ({"*": {"y": {"cosine": 1}}}, {"one__inputs__": X}, "tensor 'one/inputs/' is not called"),
        ({"*": {"y": {"cosine": 1}}, "three": {}}, {}, "`bounds` are there for 'three', and no such request"),
        ("[]", {}, "`bounds` in its metadata is not"),
        ("{", {}, "`bounds` in its metadata is not"),
        ({"one": {"y": 0.9}}, {}, "`bounds` in its metadata is not"),
    ],
)
def test_what_is_no_file_of_golden_requests_is_refused(bounds: Any, tensors: dict[str, Any], says: str) -> None:
    with pytest.raises(UnreadableGolden, match=says):
        parse_golden(content(bounds, **tensors))


@pytest.mark.parametrize(
    ("bounds", "tensors", "says"),
    [
        (None, {}, "'one': output 'y' is expected, and no bound"),
        ({"*": {"y": {"cosine": 2}}}, {}, "'one': output 'y': bound cosine"),
        ({"*": {"y": {"cosine": 1}}}, {"one__inputs__x": X.astype(np.complex64)}, "'one': tensor 'x'.*dtype C64"),
    ],
)
def test_a_request_in_a_file_is_refused_by_its_name(bounds: Any, tensors: dict[str, Any], says: str) -> None:
    with pytest.raises(UnfitGolden, match=says):
        parse_golden(content(bounds, **tensors))


def test_a_bool_that_is_none_is_refused() -> None:
    raw = content({"*": {"y": {"cosine": 1}}}, one__inputs__flag=np.array([True]))
    header = int.from_bytes(raw[:8], "little")
    begin, _ = json.loads(raw[8 : 8 + header])["one/inputs/flag"]["data_offsets"]
    at = 8 + header + begin
    with pytest.raises(UnfitGolden, match="tensor 'flag': a bool that is neither 0 nor 1"):
        parse_golden(raw[:at] + b"\x02" + raw[at + 1 :])


def test_a_damaged_file_and_none_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableGolden, match="not a whole safetensors file"):
        parse_golden(content()[:-1])
    with pytest.raises(UnreadableGolden, match="No such file"):
        read_golden(tmp_path / "none.safetensors")


def test_neither_too_much_nor_nothing_is_read_or_written(monkeypatch: pytest.MonkeyPatch) -> None:
    request = GoldenRequest("one", {"x": X})
    written = golden_bytes([request])
    with pytest.raises(UnreadableGolden, match="there are 0 of them"):
        golden_bytes([])
    with pytest.raises(UnreadableGolden, match="2 requests have only 1 name"):
        golden_bytes([request, request])
    with monkeypatch.context() as patch:
        patch.setattr(golden_file, "MAX_GOLDEN_BYTES", 100)
        for use in (lambda: golden_bytes([request]), lambda: parse_golden(written)):
            with pytest.raises(UnreadableGolden, match="more than 100 bytes"):
                use()
    monkeypatch.setattr(golden_file, "MAX_GOLDEN_REQUESTS", 1)
    with pytest.raises(UnreadableGolden, match="there are 2 of them; 1 to 1 are taken"):
        parse_golden(content({"*": {"y": {"cosine": 1}}}))
