"""Safetensors files: only whole ones, that fit, from places that are allowed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from aoti_serve.errors import (
    DigestMismatch,
    InvalidWeights,
    MissingTensor,
    SourceRefused,
    UnknownTensor,
    UnreadableWeights,
    WeightsTooLarge,
    WrongTensorDtype,
    WrongTensorShape,
)
from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.signature.tensors import DTYPES, Span
from aoti_serve.weights.files.index import file_digest, read_index
from aoti_serve.weights.sources.source import fetch_to, resolve

BIAS = ConstantSpec(name="bias", dtype="float32", shape=(3,), stride=(1,))
WEIGHT = ConstantSpec(name="weight", dtype="bfloat16", shape=(3, 2), stride=(2, 1))
BOTH = Constants(constants=(BIAS, WEIGHT), unused=("num_batches_tracked",))
FITTING = {"bias": Span("float32", (3,), 0, 12), "weight": Span("bfloat16", (3, 2), 12, 24)}


def file_of(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(begin: int, end: int, shape: tuple[int, ...] = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_the_index_says_where_each_tensor_lies(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "a": np.arange(6, dtype=np.float64).reshape(2, 3),
        "b": np.array([1, 2, 3], np.uint8),
        "c": np.empty((0, 4), np.float32),
        "d": np.array(7, np.int16),
    }
    path = tmp_path / "w.safetensors"
    save_file(arrays, path, metadata={"step": "1200"})
    index, content = read_index(path), path.read_bytes()
    assert index.keys() == arrays.keys()
    for name, array in arrays.items():
        part = index[name]
        assert (part.dtype, part.shape) == (str(array.dtype), array.shape)
        assert content[part.begin : part.end] == array.tobytes()


@pytest.mark.parametrize("dtype", [pytest.param(dtype, id=dtype.torch) for dtype in DTYPES.values()])
def test_every_dtype_goes_by_its_torch_name(tmp_path: Path, dtype: Any) -> None:
    path = file_of(tmp_path / "w", {"a": tensor(0, dtype.itemsize, dtype=dtype.safetensors)}, bytes(dtype.itemsize))
    assert read_index(path)["a"].dtype == dtype.torch


def test_a_dtype_that_cannot_be_served_keeps_its_own_name(tmp_path: Path) -> None:
    path = file_of(tmp_path / "w", {"bias": tensor(0, 3, (3,), dtype="F8_E8M0")}, bytes(3))
    with pytest.raises(WrongTensorDtype, match="tensor 'bias': dtype F8_E8M0"):
        Constants(constants=(BIAS,)).check_weights(read_index(path))


ONE = {"a": tensor(0, 4)}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x01\x02", id="shorter-than-a-header-length"),
        pytest.param(pickle.dumps({"a": [1.0]}), id="pickle"),
        pytest.param(b"PK\x03\x04" + bytes(100), id="zip"),
        pytest.param(struct.pack("<Q", 2**63) + bytes(16), id="endless-header"),
        pytest.param(struct.pack("<Q", 4) + b"nope", id="header-not-json"),
        pytest.param(struct.pack("<Q", 2) + b"[]", id="header-a-list"),
        pytest.param(struct.pack("<Q", 4) + b"\xff\xff\xff\xff", id="header-not-utf8"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(UnreadableWeights, match="not a whole safetensors file"):
        read_index(path)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        pytest.param(ONE, bytes(3), id="truncated"),
        pytest.param(ONE, b"", id="no-data"),
        pytest.param(ONE, bytes(5), id="surplus"),
        pytest.param({"a": tensor(4, 8)}, bytes(8), id="gap"),
        pytest.param({"a": tensor(0, 4), "b": tensor(0, 4)}, bytes(4), id="overlap"),
        pytest.param({"a": tensor(4, 0)}, bytes(4), id="backwards"),
        pytest.param({"a": tensor(0, 4, (2,))}, bytes(4), id="shape-needs-more"),
        pytest.param({"a": tensor(0, 4, (2**62, 2**62))}, bytes(4), id="shape-overflows"),
        pytest.param({"a": tensor(-4, 0)}, bytes(4), id="negative-offset"),
        pytest.param({"a": tensor(0, 4, (-1,))}, bytes(4), id="negative-size"),
        pytest.param({"a": tensor(0, 4, dtype="F33")}, bytes(4), id="unknown-dtype"),
        pytest.param({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), id="no-offsets"),
        pytest.param({"a": 1}, bytes(4), id="not-a-tensor"),
        pytest.param({"__metadata__": {"deep": {}}, **ONE}, bytes(4), id="metadata-not-text"),
    ],
)
def test_a_file_whose_header_does_not_hold_is_refused(tmp_path: Path, header: Any, data: bytes) -> None:
    with pytest.raises(UnreadableWeights):
        read_index(file_of(tmp_path / "w", header, data))


def test_a_header_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = file_of(tmp_path / "w", b"not even JSON", bytes(100))
    with pytest.raises(WeightsTooLarge, match=r"more than 12 bytes of header \(gateway.max_weights_header_bytes\)"):
        read_index(path, max_header_bytes=12)
    with pytest.raises(UnreadableWeights):
        read_index(path, max_header_bytes=13)


def test_more_tensors_than_allowed_are_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path / "w", {"__metadata__": {}, "a": tensor(0, 4), "b": tensor(4, 8)}, bytes(8))
    with pytest.raises(WeightsTooLarge, match=r"more than 1 tensor \(gateway.max_weights_tensors\)"):
        read_index(path, max_tensors=1)
    assert read_index(path, max_tensors=2).keys() == {"a", "b"}


def test_a_pipe_or_a_folder_of_the_kernels_is_no_file(tmp_path: Path) -> None:
    for path in (Path("/dev/null"), Path("/dev/zero")):
        with pytest.raises(UnreadableWeights):
            read_index(path)


def test_a_huge_file_is_told_from_its_header(tmp_path: Path) -> None:
    """It is full of holes, and not read."""
    size = 2**40
    path = file_of(tmp_path / "w", {"a": tensor(0, size, (size,), "U8")})
    os.truncate(path, path.stat().st_size + size)
    assert read_index(path)["a"].shape == (size,)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UnreadableWeights):
            read_index(path)


@settings(max_examples=200)
@given(data=st.data())
def test_no_damage_raises_anything_but_unreadable_weights(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = file_of(tmp_path_factory.getbasetemp() / "damaged", {"a": tensor(0, 8, (2,)), "b": tensor(8, 12)}, bytes(12))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        index = read_index(path)
    except UnreadableWeights:
        return
    assert all(0 < part.begin <= part.end <= len(content) for part in index.values())


def test_weights_that_fit_pass_also_with_tensors_that_are_not_used() -> None:
    BOTH.check_weights(FITTING)
    BOTH.check_weights(FITTING | {"num_batches_tracked": Span("int64", (), 24, 32)})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        pytest.param({"bias": None}, MissingTensor(name="bias"), id="missing"),
        pytest.param({"baes": FITTING["bias"]}, UnknownTensor(name="baes"), id="extra"),
        pytest.param(
            {"bias": FITTING["bias"]._replace(shape=(1, 3))},
            WrongTensorShape(name="bias", got=[1, 3], expected=[3]),
            id="shape",
        ),
        pytest.param(
            {"weight": FITTING["weight"]._replace(shape=(2, 3))},
            WrongTensorShape(name="weight", got=[2, 3], expected=[3, 2]),
            id="transposed",
        ),
        pytest.param(
            {"weight": FITTING["weight"]._replace(dtype="float16")},
            WrongTensorDtype(name="weight", got="float16", expected="bfloat16"),
            id="dtype-of-the-same-size",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_tensor(changes: dict[str, Span | None], error: InvalidWeights) -> None:
    index = {name: part for name, part in (FITTING | changes).items() if part is not None}
    with pytest.raises(type(error)) as caught:
        BOTH.check_weights(index)
    assert str(caught.value).startswith(str(error))  # what helps may follow


def test_the_digest_is_the_sha256_in_either_case(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert file_digest(path) == file_digest(path, digest) == file_digest(path, digest.upper()) == digest


def test_other_bytes_than_were_promised_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    with pytest.raises(DigestMismatch, match="expected 00"):
        file_digest(path, "00" * 32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that is allowed, with a file in it, beside one that is not."""
    (tmp_path / "allowed" / "deep").mkdir(parents=True)
    (tmp_path / "allowed" / "deep" / "w.safetensors").touch()
    (tmp_path / "secret").touch()
    return tmp_path / "allowed"


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("{root}/deep/w.safetensors", id="path"),
        pytest.param("file://{root}/deep/w.safetensors", id="file-uri"),
        pytest.param("file://localhost{root}/deep/w.safetensors", id="file-uri-localhost"),
        pytest.param("file://{root}/deep/w%2Esafetensors", id="escaped-uri"),
        pytest.param("{root}/../allowed/deep/w.safetensors", id="out-and-in-again"),
    ],
)
def test_a_file_under_an_allowed_root_is_found(root: Path, uri: str) -> None:
    assert resolve(uri.format(root=root), [str(root.parent / "other"), str(root)]) == root / "deep" / "w.safetensors"


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("{root}/../secret", id="dots"),
        pytest.param("file://{root}/../secret", id="dots-in-a-uri"),
        pytest.param("file://{root}/%2E%2E/secret", id="escaped-dots"),
        pytest.param("{root}/link", id="a-link-out"),
        pytest.param("{root}/folder/secret", id="a-linked-folder"),
        pytest.param("{root}-other/w", id="a-neighbour-with-the-same-prefix"),
        pytest.param("/etc/passwd", id="elsewhere"),
        pytest.param("/etc/not-there", id="elsewhere-and-missing"),
        pytest.param("{root}/../" + "a" * 300, id="elsewhere-and-too-long-for-a-file"),
        pytest.param("secret", id="relative"),
        pytest.param("", id="nothing"),
        pytest.param("http://example.org{root}/deep/w.safetensors", id="http"),
        pytest.param("s3://bucket/w.safetensors", id="s3"),
        pytest.param("file://other-host{root}/deep/w.safetensors", id="another-host"),
        pytest.param("file://[broken/w", id="broken-uri"),
    ],
)
def test_a_uri_that_leads_out_of_the_roots_is_refused(root: Path, uri: str) -> None:
    (root / "link").symlink_to(root.parent / "secret")
    (root / "folder").symlink_to(root.parent)
    (root.parent / "allowed-other").mkdir()
    (root.parent / "allowed-other" / "w").touch()
    with pytest.raises(SourceRefused):
        resolve(uri.format(root=root), [str(root)])


def test_without_roots_every_file_is_refused(root: Path) -> None:
    with pytest.raises(SourceRefused, match="upload the file instead"):
        resolve(str(root / "deep" / "w.safetensors"), [])


def test_a_root_may_itself_be_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert resolve(f"{link}/deep/w.safetensors", [str(link)]) == root / "deep" / "w.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gone", id="missing"),
        pytest.param("deep", id="a-folder"),
        pytest.param("deep/w.safetensors/x", id="below-a-file"),
        pytest.param("loop", id="a-link-to-itself"),
        pytest.param("a" * 300, id="a-name-too-long-for-a-file"),
        pytest.param("a%00b", id="a-zero-byte"),
    ],
)
def test_a_file_that_is_not_there_is_unreadable(root: Path, name: str) -> None:
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(UnreadableWeights, match="no file at"):
        fetch_to(f"file://{root}/{name}", [str(root)], root.parent / "target", 100)


@pytest.mark.parametrize(
    "name", [pytest.param("run#7", id="hash"), pytest.param("v1?", id="question"), pytest.param("a%20b", id="percent")]
)
def test_a_plain_path_is_taken_as_it_is(root: Path, name: str) -> None:
    (root / name).touch()
    assert resolve(str(root / name), [str(root)]) == root / name
