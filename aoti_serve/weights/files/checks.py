"""Check a safetensors file against a package's constants, before a tensor of it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from aoti_serve.signature.constants import Constants
from aoti_serve.signature.contents import ContentsCheck
from aoti_serve.signature.tensors import Span

CHECK_CHUNK_BYTES = 4 * 2**20


def check_fits(index: Mapping[str, Span], constants: Constants) -> None:
    """Raise an InvalidWeights that names the first tensor that does not fit the package."""
    constants.check_weights(index)


def check_values(path: Path, index: Mapping[str, Span], constants: Constants, strict: bool = True) -> list[str]:
    """Check the values of a file that fits; see `ContentsCheck.finish`."""
    contents = ContentsCheck(index, constants)
    with path.open("rb") as file:
        for name, span in index.items():
            if contents.reads(name):
                for chunk in file_chunks(file, span):
                    contents.take(name, np.frombuffer(chunk, np.uint8))
    return contents.finish(strict=strict)


def file_chunks(file: BinaryIO, span: Span) -> Iterator[bytes]:
    """Yield a tensor's bytes, a few megabytes at a time. Raises OSError if the file ends too early."""
    file.seek(span.begin)
    left = span.end - span.begin
    while left:
        piece = file.read(min(left, CHECK_CHUNK_BYTES))
        if not piece:
            raise OSError(f"the file ends {left} bytes early")
        left -= len(piece)
        yield piece
