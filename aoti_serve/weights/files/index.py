"""The header of a safetensors file, read and written: where each tensor lies in the file.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from aoti_serve.errors import DigestMismatch, UnreadableWeights, WeightsTooLarge, quantity
from aoti_serve.errors.file_kinds import FORMAT_MAX_HEADER_BYTES, LOOKED_AT, no_weights
from aoti_serve.signature.tensors import BY_SAFETENSORS, DTYPES, Shaped, Span
from aoti_serve.weights.files.pickles import check_no_pickle

MAX_NAME = 1024  # it stands in errors and receipts
CHECK_CHUNK_BYTES = 4 * 2**20


def read_index(path: Path, max_tensors: int | None = None, max_header_bytes: int | None = None) -> dict[str, Span]:
    """Read the tensors' places, by name, from a file's header; a header that is too long is not read.

    Raises UnreadableWeights for anything that is not a whole, well-formed file (a truncated download), PickledWeights,
    and WeightsTooLarge beyond a limit; None is no limit but the format's own.
    """
    check_no_pickle(path)
    try:
        with path.open("rb") as file:
            return index_in(file, os.fstat(file.fileno()).st_size, max_tensors, max_header_bytes)
    except OSError as error:
        raise _unreadable(error) from error


def index_in(
    file: BinaryIO, nbytes: int, max_tensors: int | None = None, max_header_bytes: int | None = None
) -> dict[str, Span]:
    """As `read_index`, for an open file of `nbytes`; it is read from its position to the end of the header."""
    length = _header_length(file, nbytes, max_header_bytes)
    content = file.read(length)
    _check_by_the_format(length.to_bytes(8, "little") + content, nbytes)
    header = json.loads(content)
    header.pop("__metadata__", None)
    if any(len(name) > MAX_NAME for name in header):
        raise _unreadable(f"a tensor's name is longer than {MAX_NAME} characters")
    if max_tensors is not None and len(header) > max_tensors:
        raise WeightsTooLarge(limit=max_tensors, unit="tensors", setting="gateway.max_weights_tensors")
    return {name: _span(entry, 8 + length) for name, entry in header.items()}


def file_digest(path: Path, expected: str | None = None) -> str:
    """Compute the file's sha256 in hex; raises DigestMismatch if it is not the expected one."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and expected.lower() != digest:
        raise DigestMismatch(got=digest, expected=expected)
    return digest


def file_chunks(file: BinaryIO, span: Span) -> Iterator[bytes]:
    """Yield a tensor's bytes, a few megabytes at a time. Raises OSError if the file ends too early."""
    file.seek(span.begin)
    left = span.end - span.begin
    while left:
        piece = file.read(min(left, CHECK_CHUNK_BYTES))
        if not piece:
            raise OSError(f"the file ends {quantity(left, 'bytes')} early")
        left -= len(piece)
        yield piece


def file_order(tensors: Mapping[str, Shaped | Span]) -> list[str]:
    """The names in the order of their bytes: the widest dtypes first, so that every tensor is aligned to its own."""
    width = {name: DTYPES[tensor.dtype].itemsize if tensor.dtype in DTYPES else 1 for name, tensor in tensors.items()}
    return sorted(tensors, key=lambda name: (-width[name], name))


def header_of(tensors: Mapping[str, Span], metadata: Mapping[str, str] | None = None) -> bytes:
    """All bytes before the first tensor's, padded so that the tensors begin at a multiple of 8.

    Of the spans only their lengths count; a dtype that is none of ours keeps its own name.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in file_order(tensors):
        span = tensors[name]
        begin, end = end, end + span.end - span.begin
        code = DTYPES[span.dtype].safetensors if span.dtype in DTYPES else span.dtype
        entries[name] = {"dtype": code, "shape": list(span.shape), "data_offsets": [begin, end]}
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def _header_length(file: BinaryIO, nbytes: int, limit: int | None) -> int:
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min(nbytes - 8, FORMAT_MAX_HEADER_BYTES):
        raise _unreadable(no_weights(prefix + file.read(LOOKED_AT - 8)))
    if limit is not None and length > limit:
        raise WeightsTooLarge(limit=limit, unit="bytes of header", setting="gateway.max_weights_header_bytes")
    return length


def _check_by_the_format(head: bytes, nbytes: int) -> None:
    """Have the format's own parser check offsets, overlaps and the length: on a file of nothing but holes behind it.

    So the header that is checked is the header that is used, wherever it was read from.
    """
    descriptor = os.memfd_create("header", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(head)
        os.ftruncate(descriptor, nbytes)
        with safe_open(f"/proc/self/fd/{descriptor}", framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise _unreadable(_cut(head, nbytes) or error) from error
    finally:
        os.close(descriptor)


def _cut(head: bytes, nbytes: int) -> str | None:
    """That the file is too short for its tensors, if that is what is wrong with it."""
    try:
        entries = json.loads(head[8:])
        needed = len(head) + max(entries[name]["data_offsets"][1] for name in entries if name != "__metadata__")
        too_short = needed > nbytes
    except (ValueError, LookupError, TypeError, RecursionError):  # the format's own parser has said what it is
        return None
    return f"it was cut: its tensors take {needed} bytes, and it has {nbytes}; fetch it again" if too_short else None


def _unreadable(why: object) -> UnreadableWeights:
    return UnreadableWeights(detail=f"not a whole safetensors file: {why}")


def _span(entry: dict[str, object], data_start: int) -> Span:
    shape, offsets = entry["shape"], entry["data_offsets"]
    assert isinstance(shape, list), "safe_open has checked the header"
    assert isinstance(offsets, list)
    code = str(entry["dtype"])
    dtype = BY_SAFETENSORS[code].torch if code in BY_SAFETENSORS else code
    return Span(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])
