"""The sources of weights that may be several files: an index of shards, and the shards beside it."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from urllib.parse import quote

from aoti_serve.config import WeightsLimits
from aoti_serve.errors import UnreadableWeights, WeightsTooLarge
from aoti_serve.weights.files.checkpoint import JoinedShards, checkpoint_in, write_joined
from aoti_serve.weights.files.sharded import ShardIndex, is_shard_index
from aoti_serve.weights.sources.source import fetch_to, resolve
from aoti_serve.weights.sources.uri import is_uri, shown_uri

Scratch = Callable[[], AbstractContextManager[Path]]
HEADER = "gateway.max_weights_header_bytes"


def fetch_checkpoint(uri: str, roots: Collection[str], target: Path, limits: WeightsLimits, scratch: Scratch) -> None:
    """As `fetch_to`, also of an index of shards, or of a folder of this host; shards are joined in `target`.

    `scratch` makes the files in which the index and the shards lie until then: with them the disk holds all twice.
    """
    found = resolve(uri, roots)
    if isinstance(found, Path) and os.path.isdir(found):
        uri = str(checkpoint_in(found))
    if not is_shard_index(uri.partition("?")[0] if is_uri(uri) else uri):
        fetch_to(uri, roots, target, limits.max_weights_bytes)
        return
    with ExitStack() as stack:
        index = _index_at(uri, roots, limits, stack.enter_context(scratch()))
        files, total = {}, 0
        for shard in index.shards:
            files[shard] = stack.enter_context(scratch())
            fetch_to(_beside(uri, shard), roots, files[shard], limits.max_weights_bytes)
            total += files[shard].stat().st_size
            if total > limits.max_weights_bytes:
                limit = limits.max_weights_bytes
                raise WeightsTooLarge(limit=limit, unit="bytes", setting="gateway.max_weights_bytes")
        write_joined(JoinedShards(index.join(files, limits.max_weights_header_bytes)), target)


def _index_at(uri: str, roots: Collection[str], limits: WeightsLimits, path: Path) -> ShardIndex:
    if is_uri(uri) and "?" in uri:
        detail = f"{shown_uri(uri)}: a URI with a query names one file only, and not the shards beside it"
        raise UnreadableWeights(detail=detail)
    fetch_to(uri, roots, path, limits.max_weights_header_bytes, HEADER)
    return ShardIndex.parse(path.read_bytes(), shown_uri(uri), limits.max_weights_tensors)


def _beside(uri: str, shard: str) -> str:
    """The shard's place, written as the index's own is: on the web and after `file:` names are encoded."""
    encoded = uri.lower().startswith(("http:", "https:", "file:"))
    return posixpath.join(posixpath.dirname(uri), quote(shard) if encoded else shard)
