"""The example that reads PNG files."""

from __future__ import annotations

import zlib
from struct import pack
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import HEADER, NAMES, SIGNATURE, SIZE, Pictures, pixels_of

from aoti_serve.errors import InvalidInputData
from aoti_serve.processor.declared import ProcessorTensor

GREY = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))


def png(rows: bytes, header: bytes = HEADER) -> bytes:
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def filtered(kind: int, grey: NDArray[np.uint8]) -> bytes:
    """As the PNG specification says, section 9."""
    padded = np.pad(grey.astype(int), ((1, 0), (1, 0)))
    left, up, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    estimate = left + up - corner
    far = [abs(estimate - each) for each in (left, up, corner)]
    paeth = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, corner))
    guess = (np.zeros_like(left), left, up, (left + up) // 2, paeth)[kind]
    rows = ((grey - guess) % 256).astype(np.uint8)
    return b"".join(bytes([kind]) + row.tobytes() for row in rows)


@pytest.mark.parametrize("kind", range(5))
def test_pixels_are_read_whatever_their_filter(kind: int) -> None:
    assert np.array_equal(pixels_of(png(filtered(kind, GREY))), GREY)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GIF89a", id="gif"),
        pytest.param(SIGNATURE, id="no-chunks"),
        pytest.param(png(filtered(0, GREY))[:60], id="cut-off"),
        pytest.param(png(filtered(0, GREY), pack(">IIBBBBB", 9, 8, 8, 0, 0, 0, 0)), id="another-size"),
        pytest.param(png(b"\0" * 9), id="too-few-rows"),
        pytest.param(png(b"\5" + b"\0" * 71), id="unknown-filter"),
        pytest.param(SIGNATURE + b"\0\0", id="half-a-chunk"),
    ],
)
def test_any_other_file_costs_its_own_request(file: bytes) -> None:
    good = png(filtered(0, GREY))
    refused, read = Pictures().before([{"png": np.array([good, file], object)}, {"png": np.array([good], object)}])
    assert isinstance(refused, InvalidInputData)
    assert str(refused).startswith("input 'png': no PNG of 8 x 8 grey pixels: ")
    assert read["image"].shape == (1, 1, SIZE, SIZE)
    assert read["image"].dtype == np.float32


def test_what_is_packed_very_small_is_not_unpacked() -> None:
    bomb = png(filtered(0, GREY) + bytes(2**24))
    assert len(bomb) < 2**15
    assert np.array_equal(pixels_of(bomb), GREY)


def test_digits_have_names() -> None:
    [found] = Pictures().after([{"logits": np.eye(10)[[3, 7]]}])
    assert found["name"] == ["three", "seven"] == [NAMES[digit] for digit in found["digit"]]


def test_what_it_declares_can_be_served() -> None:
    declared: Any = (*Pictures.inputs, *Pictures.outputs)
    assert [ProcessorTensor.model_validate(each).dtype for each in declared] == ["BYTES", "int64", "BYTES"]
