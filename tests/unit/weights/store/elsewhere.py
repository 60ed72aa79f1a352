"""`elsewhere://`: an fsspec place that survives the process, where a small put is one step, as in an object store."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from upath import UPath
from upath.registry import register_implementation

SCHEME = "elsewhere"


class Elsewhere(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Refuses appends and renames, which object stores do not have."""

    protocol = SCHEME

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        stripped: str = super()._strip_protocol(str(path).removeprefix(f"{SCHEME}://"))
        return stripped

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        assert mode == "overwrite"
        path = self._strip_protocol(path)
        descriptor, scratch = tempfile.mkstemp(dir=os.environ.get("XDG_CACHE_HOME"))
        with open(descriptor, "wb") as file:
            file.write(value)
        os.replace(scratch, path)

    def mv(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError


class ElsewherePath(UPath):
    """So that UPath takes it for a scheme of its own."""


fsspec.register_implementation(SCHEME, Elsewhere, clobber=True)
register_implementation(SCHEME, ElsewherePath, clobber=True)


def uri_of(folder: Path) -> str:
    return f"{SCHEME}://{folder}"
