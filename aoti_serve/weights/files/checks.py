"""Check a safetensors file against a package's constants, before a tensor of it is used."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from aoti_serve.errors import ConstantIsBaked, TiedTensorsDiffer, UnfitTensor
from aoti_serve.signature.constants import Constants
from aoti_serve.signature.tensors import Shaped, Span

CHECK_CHUNK_BYTES = 4 * 2**20


def check_fits(index: Mapping[str, Span], constants: Constants) -> None:
    """Raise an InvalidWeights that names the first tensor that does not fit the package."""
    constants.check_weights({name: Shaped(part.dtype, part.shape) for name, part in index.items()})


def check_values(path: Path, index: Mapping[str, Span], constants: Constants, strict: bool = True) -> list[str]:
    """Check the values of a file that fits.

    Raises TiedTensorsDiffer, UnfitTensor for a bool that is neither 0 nor 1, and ConstantIsBaked for a compiled-in
    constant with another value. Without `strict` the names of such constants are returned instead: they stay as they
    were compiled.
    """
    with path.open("rb") as file:
        for first, *others in _names_of_one(index, constants):
            digest = _digest(file, index[first])
            for name in others:
                if _digest(file, index[name]) != digest:
                    raise TiedTensorsDiffer(name=name, tied=first)
        for name, span in index.items():
            if span.dtype == "bool" and any(
                np.frombuffer(piece, np.uint8).max() > 1 for piece in file_chunks(file, span)
            ):
                raise UnfitTensor(name=name, detail="a bool that is neither 0 nor 1")
        differing = [
            baked.name
            for baked in constants.baked
            if baked.name in index and _digest(file, index[baked.name]) != baked.digest
        ]
    if strict and differing:
        raise ConstantIsBaked(name=differing[0])
    return differing


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


def _names_of_one(index: Mapping[str, Span], constants: Constants) -> Iterator[list[str]]:
    """Groups of names in the file that belong to one constant; the constant's own name is first."""
    names = defaultdict(list)
    for name in sorted(index, key=lambda name: name in constants.tied):
        names[constants.tied.get(name, name)].append(name)
    return (group for group in names.values() if len(group) > 1)


def _digest(file: BinaryIO, span: Span) -> str:
    digest = hashlib.sha256()
    for piece in file_chunks(file, span):
        digest.update(piece)
    return digest.hexdigest()
