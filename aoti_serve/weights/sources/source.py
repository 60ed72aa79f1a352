"""The sources of weights: a file, or a URI, under one of the roots that the configuration allows.

A source is copied once, into the store's own folder, and checked there: what is checked is what is stored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aoti_serve.errors import SourceRefused, StoreFailed, UnreadableWeights, WeightsTooLarge
from aoti_serve.weights.free_space import check_room
from aoti_serve.weights.sources.fetch import fetch, local_chunks, web_chunks
from aoti_serve.weights.sources.uri import PORTS, UriLocation, is_uri, location_of, shown_uri

TRANSFER_S = 3600.0  # a source that sends a byte now and then must not hold a swap for ever


def fetch_to(
    uri: str, roots: Collection[str], target: Path, limit: int, setting: str = "gateway.max_weights_bytes"
) -> None:
    """Copy what a URI names to `target`, at most `limit` bytes, as `setting` says.

    Raises SourceRefused, UnreadableWeights, WeightsTooLarge, or StoreFailed if it cannot be written; `target` may be
    left half written.
    """
    too_large = WeightsTooLarge(limit=limit, unit="bytes", setting=setting)

    def expect(nbytes: int) -> None:
        if nbytes > limit:
            raise too_large
        check_room(nbytes, target.parent)

    source = resolve(uri, roots)
    if isinstance(source, Path):
        pieces = local_chunks(source, uri, lambda path: _is_under(path, roots), expect)
    else:
        pieces = (web_chunks if source.scheme in PORTS else fetch)(source, uri, expect)
    _write(pieces, target, too_large, uri)


def resolve(uri: str, roots: Collection[str]) -> Path | UriLocation:
    """Find the real path of a local file, or the normalised location of a remote one.

    Raises SourceRefused unless it lies under one of `roots`: a folder, after all links, or a URI's prefix, in whole
    segments. It does not look whether the file exists.
    """
    if not roots:
        raise SourceRefused(
            uri=shown_uri(uri), reason="the configuration allows no weights_roots; upload the file instead"
        )
    if not is_uri(uri) or uri.lower().startswith("file:"):
        return _local(uri, roots)
    place = location_of(uri)
    if any(place.lies_under(location_of(root)) for root in roots if is_uri(root)):
        return place
    raise SourceRefused(
        uri=shown_uri(uri), reason=f"no weights_roots allow it; list {shown_uri(uri).rpartition('/')[0]} there"
    )


def _local(uri: str, roots: Collection[str]) -> Path:
    plain = _path_of(uri)
    try:
        path = os.path.realpath(plain)
    except (OSError, ValueError) as error:  # a zero byte, for one
        raise UnreadableWeights(detail=f"no file at {uri}: {error}") from error
    if not _is_under(path, roots):
        folder = os.path.dirname(plain) or "its folder"
        raise SourceRefused(uri=uri, reason=f"it lies outside the allowed weights_roots; list {folder} there")
    return Path(path)


def _is_under(path: str, roots: Collection[str]) -> bool:
    folders = (root for root in roots if not is_uri(root))
    return any(Path(path).is_relative_to(os.path.realpath(folder)) for folder in folders)


def _path_of(uri: str) -> str:
    if not is_uri(uri):
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SourceRefused(uri=uri, reason=str(error)) from error
    if parts.netloc not in ("", "localhost"):
        raise SourceRefused(uri=shown_uri(uri), reason="only files of this host can be read")
    return unquote(parts.path)


def _write(pieces: Iterable[bytes], target: Path, too_large: WeightsTooLarge, uri: str) -> None:
    deadline, total = time.monotonic() + TRANSFER_S, 0
    try:
        with target.open("wb") as file:
            for piece in pieces:
                total += len(piece)
                if total > too_large.limit:
                    raise too_large
                if time.monotonic() > deadline:
                    raise UnreadableWeights(detail=f"{shown_uri(uri)} took longer than {TRANSFER_S:g} s")
                file.write(piece)
    except OSError as error:
        raise StoreFailed.of(target.parent, error) from error
