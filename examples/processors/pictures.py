"""The digits of `scripts/serve` from PNG files: `processor: {class: "pictures:Pictures"}`.

Reads grey pictures of 8 x 8 pixels with the standard library alone. For pictures of any kind use Pillow, and keep the
two habits: bound what is unpacked before it is unpacked, and refuse in words what cannot be read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import InvalidInputData

SIZE = 8
FILTERS = 5
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, 0)  # 8 bits of grey, not interlaced
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Request = Mapping[str, NDArray[Any]]


class Pictures:
    """PNG files in, digits and their names out."""

    inputs = ({"name": "png", "dtype": "BYTES", "shape": ["batch"]},)
    outputs = (
        {"name": "digit", "dtype": "INT64", "shape": ["batch"]},
        {"name": "name", "dtype": "BYTES", "shape": ["batch"]},
    )

    def before(self, requests: Sequence[Request]) -> list[Any]:
        """The pictures of each request as the model's `image`; an error in place of what cannot be read."""
        return [self._images(request["png"]) for request in requests]

    def after(self, answers: Sequence[Request]) -> list[Any]:
        """Which digit each of the model's `logits` is."""
        digits = [answer["logits"].argmax(axis=1) for answer in answers]
        return [{"digit": found, "name": [NAMES[digit] for digit in found]} for found in digits]

    def _images(self, files: NDArray[Any]) -> Any:
        try:
            grey = np.stack([pixels_of(file) for file in files])
        except (ValueError, zlib.error, struct.error) as error:
            return InvalidInputData(name="png", detail=f"no PNG of {SIZE} x {SIZE} grey pixels: {error}")
        return {"image": grey[:, None].astype(np.float32) / 255}


def pixels_of(file: bytes) -> NDArray[np.uint8]:
    """The pixels of a PNG file. Raises ValueError, zlib.error or struct.error for any other file."""
    if not file.startswith(SIGNATURE):
        raise ValueError("it does not begin as one")
    chunks = list(chunks_of(file))
    if (b"IHDR", HEADER) not in chunks:
        raise ValueError("its header says otherwise")
    packed = b"".join(data for kind, data in chunks if kind == b"IDAT")
    rows = zlib.decompressobj().decompress(packed, SIZE * (SIZE + 1))  # no more, whatever is packed in it
    if len(rows) != SIZE * (SIZE + 1):
        raise ValueError("it ends too early")
    if max(rows[:: SIZE + 1]) >= FILTERS:
        raise ValueError("it has a filter that there is not")
    return _unfiltered(np.frombuffer(rows, np.uint8).reshape(SIZE, SIZE + 1))


def chunks_of(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the data of each chunk."""
    at = len(SIGNATURE)
    while at < len(file):
        length, kind = struct.unpack_from(">I4s", file, at)
        yield kind, file[at + 8 : at + 8 + length]
        at += length + 12


def _unfiltered(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = np.zeros((SIZE + 1, SIZE + 1), int)  # a row above and a column before the picture
    for y, (kind, *values) in enumerate(rows.tolist(), 1):
        for x, value in enumerate(values, 1):
            left, up, corner = (int(pixel) for pixel in (pixels[y, x - 1], pixels[y - 1, x], pixels[y - 1, x - 1]))
            pixels[y, x] = (value + _predicted(kind, left, up, corner)) % 256
    return pixels[1:, 1:].astype(np.uint8)


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    nearest = min((left, up, corner), key=lambda pixel: abs(left + up - corner - pixel))
    return (0, left, up, (left + up) // 2, nearest)[kind]
