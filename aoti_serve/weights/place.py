"""Which kind of place a store's root is."""

from __future__ import annotations

from pathlib import Path

from upath import UPath

from aoti_serve.errors import StoreFailed
from aoti_serve.weights.disk import Disk
from aoti_serve.weights.remote import Remote
from aoti_serve.weights.uri import scrubbed, shown


def place_at(root: str | Path | UPath) -> Disk | Remote:
    """The place that a folder, or a URI, names."""
    if isinstance(root, Path):
        return Disk(root)
    path = _parsed(root) if isinstance(root, str) else root
    return Disk(Path(path.path)) if path.protocol in ("", "file", "local") else Remote(path, str(root))


def _parsed(root: str) -> UPath:
    try:
        if "::" in root:
            raise ValueError("it is a chain of URIs")
        return UPath(root)
    except (ValueError, ImportError) as error:
        raise StoreFailed(path=shown(root), detail=scrubbed(str(error), root)) from None
