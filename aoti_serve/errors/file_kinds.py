"""What a file is that was given in the place of another: told by how it begins, never by its name."""

from __future__ import annotations

import struct
from codecs import getincrementaldecoder
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

LOOKED_AT: Final = 1024  # bytes from its beginning
PICKLE: Final = b"\x80\x02"  # how files of torch.save begin in its old format; today they are zips
ZIP: Final = b"PK\x03\x04"
FORMAT_MAX_HEADER_BYTES: Final = 100_000_000  # bytes, safetensors' own limit
_ENTRY = struct.Struct("<26xHH")  # of a zip: the lengths of its first entry's name and of what is beside it
_SHOWN = 24  # characters of a text


class FileKind(StrEnum):
    """Kinds of files, as errors call them."""

    EMPTY = "empty"
    SAFETENSORS = "a safetensors file"
    PACKAGE = "a package"
    TORCH = "a file of torch.save's"
    NUMPY = "a file of NumPy's"
    GGUF = "a GGUF file, as llama.cpp reads them"
    HDF5 = "an HDF5 file, as Keras writes them"
    LFS = "a pointer of Git LFS, and not the file itself"
    PAGE = "a web page"
    COMPRESSED = "compressed"
    ARCHIVE = "an archive"
    LIBRARY = "a compiled library"
    TEXT = "text"
    UNKNOWN = "of no kind that is known here"


_BEGINNINGS: Final[Mapping[bytes, FileKind]] = {
    b"GGUF": FileKind.GGUF,
    b"\x93NUMPY": FileKind.NUMPY,
    b"\x89HDF\r\n": FileKind.HDF5,
    b"\x1f\x8b": FileKind.COMPRESSED,
    b"\x28\xb5\x2f\xfd": FileKind.COMPRESSED,
    b"BZh": FileKind.COMPRESSED,
    b"\xfd7zXZ": FileKind.COMPRESSED,
    b"\x7fELF": FileKind.LIBRARY,
    PICKLE: FileKind.TORCH,
    b"version https://git-lfs": FileKind.LFS,
}
_WEIGHTS_INSTEAD: Final[Mapping[FileKind, str]] = {
    FileKind.EMPTY: "write it again",
    FileKind.PACKAGE: "name the safetensors file beside it",
    FileKind.TORCH: "`aoti-serve convert` makes one of it",
    FileKind.NUMPY: "safetensors.numpy.save_file writes one of its arrays",
    FileKind.LFS: "`git lfs pull` fetches it",
    FileKind.PAGE: "download the file again",
    FileKind.COMPRESSED: "unpack it first",
}


def file_kind(begin: bytes) -> FileKind:
    """The kind of a file that begins with these bytes, `LOOKED_AT` of them or all that it has."""
    if not begin:
        return FileKind.EMPTY
    if begin.startswith(ZIP):
        return _zip_kind(begin)
    if begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") <= FORMAT_MAX_HEADER_BYTES:
        return FileKind.SAFETENSORS
    known = next((kind for sign, kind in _BEGINNINGS.items() if begin.startswith(sign)), None)
    return known or _text_kind(begin)


def kind_of(path: Path) -> FileKind:
    """The kind of the file at `path`; UNKNOWN if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file_kind(file.read(LOOKED_AT))
    except OSError:
        return FileKind.UNKNOWN


def no_weights(begin: bytes) -> str:
    """Why a file that begins so holds no weights, and what to do."""
    kind = file_kind(begin)
    if kind is FileKind.SAFETENSORS:
        return "its header is longer than the file: it was cut, or has not all arrived; fetch it again"
    shown = f", which begins with {begin.decode(errors='replace')[:_SHOWN]!r}" if kind is FileKind.TEXT else ""
    return f"it is {kind}{shown}; {_WEIGHTS_INSTEAD.get(kind, 'safetensors.torch.save_file writes one of tensors')}"


def _zip_kind(begin: bytes) -> FileKind:
    name = _first_entry(begin)
    if name.endswith(b".npy"):
        return FileKind.NUMPY
    if name.endswith(b".pkl"):
        return FileKind.TORCH
    if name.endswith(b"/archive_format") or b"/aotinductor/" in name:
        return FileKind.PACKAGE
    return FileKind.ARCHIVE


def _first_entry(begin: bytes) -> bytes:
    """The name of a zip's first entry; empty if the file ends before it."""
    if len(begin) < _ENTRY.size:
        return b""
    length, _ = _ENTRY.unpack_from(begin)
    return begin[_ENTRY.size : _ENTRY.size + length]


def _text_kind(begin: bytes) -> FileKind:
    try:
        text = getincrementaldecoder("utf-8")().decode(begin)  # whose last character may be cut
    except UnicodeDecodeError:
        return FileKind.UNKNOWN
    if text.lstrip().lower().startswith(("<!doctype html", "<html")):
        return FileKind.PAGE
    readable = all(character.isprintable() or character.isspace() for character in text)
    return FileKind.TEXT if readable else FileKind.UNKNOWN
