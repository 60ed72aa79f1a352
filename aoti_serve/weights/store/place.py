"""Which kind of place a store's root is."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from upath import UPath

from aoti_serve.errors import StoreFailed
from aoti_serve.weights.sources.uri import scrubbed, shown_uri
from aoti_serve.weights.store.disk import Disk
from aoti_serve.weights.store.remote import Remote
from aoti_serve.weights.version import Committed


def storage_at(root: str | Path | UPath) -> Disk | Remote:
    """The place that a folder, or a URI, names."""
    if isinstance(root, Path):
        return Disk(root)
    path = _parsed(root) if isinstance(root, str) else root
    return Disk(Path(path.path)) if path.protocol in ("", "file", "local") else Remote(path, str(root))


def committed_at(root: str | Path | UPath) -> Committed | None:
    """What was committed last in the store at `root`; None if nothing was, or there is no store.

    The store is not opened, and may be somebody's. Raises StoreFailed if it cannot be told.
    """
    place = storage_at(root)
    try:
        content = place.read("CURRENT")
        return None if content is None else Committed.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise StoreFailed(path=place.shown, detail=str(error)) from error


def _parsed(root: str) -> UPath:
    try:
        if "::" in root:
            raise ValueError("it is a chain of URIs")
        return UPath(root)
    except (ValueError, ImportError) as error:
        raise StoreFailed(path=shown_uri(root), detail=scrubbed(str(error), root)) from None
