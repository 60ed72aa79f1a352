"""Where weights come from: a safetensors file, checked against the constants before anybody reads a tensor of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from safetensors import SafetensorError, safe_open

from aoti_serve.constants import Constants
from aoti_serve.errors import DigestMismatch, SourceRefused, UnreadableWeights
from aoti_serve.tensors import BY_SAFETENSORS, Shaped, Span


def read_index(path: Path, *limits: int) -> dict[str, Span]:
    """The tensors of a safetensors file by name; reads only its header.

    Raises UnreadableWeights for anything that is not a whole, well-formed file: a pickle, a truncated download.
    """
    try:
        with safe_open(path, framework="numpy"):  # the format's own parser checks offsets, overlaps and the length
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (SafetensorError, OSError, ValueError) as error:
        raise UnreadableWeights(detail=f"not a whole safetensors file: {error}") from error
    return {name: _span(entry, 8 + size) for name, entry in header.items() if name != "__metadata__"}


def check_fits(index: Mapping[str, Span], constants: Constants) -> None:
    """Raise an InvalidWeights that names the first tensor that does not fit the package."""
    constants.check_weights({name: Shaped(part.dtype, part.shape) for name, part in index.items()})


def digest_of(path: Path, expected: str | None = None) -> str:
    """The file's sha256 in hex; raises DigestMismatch if another was promised."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and expected.lower() != digest:
        raise DigestMismatch(got=digest, expected=expected)
    return digest


def local_file(uri: str, roots: Collection[Path]) -> Path:
    """The file that a URI (`file://` or a plain path) names, if it lies under an allowed root after all links."""
    plain = _path_of(uri)
    if not roots:
        raise SourceRefused(uri=uri, reason="the configuration allows no weights_roots; upload the file instead")
    try:
        path = Path(os.path.realpath(plain))
    except (OSError, ValueError) as error:  # a zero byte, for one
        raise UnreadableWeights(detail=f"no file at {uri}: {error}") from error
    if not any(path.is_relative_to(os.path.realpath(root)) for root in roots):
        raise SourceRefused(uri=uri, reason="it lies outside the allowed weights_roots")
    if not os.path.isfile(path):
        raise UnreadableWeights(detail=f"no file at {uri}")
    return path


def _path_of(uri: str) -> str:
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SourceRefused(uri=uri, reason=str(error)) from error
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise SourceRefused(uri=uri, reason="only files of this host can be read")
    return unquote(parts.path)


def _span(entry: dict[str, object], data_start: int) -> Span:
    shape, offsets = entry["shape"], entry["data_offsets"]
    assert isinstance(shape, list), "safe_open has checked the header"
    assert isinstance(offsets, list)
    code = str(entry["dtype"])
    dtype = BY_SAFETENSORS[code].torch if code in BY_SAFETENSORS else code
    return Span(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def check_values(path: Path, index: Mapping[str, Span], constants: Constants, strict: bool) -> None:
    """Being written."""


def bring(uri: str, roots: Collection[Path], path: Path, limit: int) -> None:
    shutil.copyfile(local_file(uri, roots), path)
