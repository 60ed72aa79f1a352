"""Checks a file of weights against the package, completes it if it is partial, and stores it as a version."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aoti_serve.config import WeightsLimits
from aoti_serve.errors import BaseHasNoFile, BaseVersionMismatch
from aoti_serve.signature.constants import Constants
from aoti_serve.signature.contents import ContentsCheck
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import file_chunks, file_digest, read_index
from aoti_serve.weights.files.merge import merge_weights, parts_in
from aoti_serve.weights.sources.source import fetch_to
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, Version


@dataclass(frozen=True)
class Admission:
    """Makes versions of files. Runs in the coordinator, in threads.

    The bytes that answer already make no new version: all methods then return the version that answers. They raise an
    InvalidWeights, SourceRefused, BaseVersionMismatch or StoreFailed; nothing has changed then, and nothing is left
    behind.
    """

    store: Store
    model: str
    constants: Constants
    limits: WeightsLimits
    roots: Collection[str]

    def check_base(self, options: SwapOptions, current: Version) -> None:
        if options.base_version is not None and options.base_version != current.number:
            raise BaseVersionMismatch(model=self.model, base=options.base_version, current=current.number)

    def of_uri(self, uri: str, options: SwapOptions, current: Version) -> Version:
        """The version that a file elsewhere becomes."""
        self.check_base(options, current)
        return self._of_copy(uri, self.roots, options, current)

    def of_local(self, source: Path, options: SwapOptions) -> Version:
        """The version that a file of the configuration's becomes."""
        real = source.resolve()  # the author of the configuration may have meant a link
        return self._of_copy(str(real), [str(real.parent)], options, BUILT_IN)

    def of_file(self, path: Path, options: SwapOptions, current: Version) -> Version:
        """The version that an upload becomes; it is moved or copied."""
        self.check_base(options, current)
        index = self.index(path)
        if not options.partial:
            return self._stored(path, index, options.sha256, options, current)
        file_digest(path, options.sha256)
        whole = self.store.incoming()
        try:
            self._complete(path, index, current, whole)
            return self._stored(whole, self.index(whole), None, options, current)
        finally:
            self.store.discard(whole)

    def _of_copy(self, uri: str, roots: Collection[str], options: SwapOptions, current: Version) -> Version:
        """Copy the file before it is checked."""
        path = self.store.incoming()
        try:
            fetch_to(uri, roots, path, self.limits.max_weights_bytes)
            return self.of_file(path, options, current)
        finally:
            self.store.discard(path)

    def index(self, path: Path) -> dict[str, Span]:
        return read_index(path, self.limits.max_weights_tensors, self.limits.max_weights_header_bytes)

    def _complete(self, path: Path, index: dict[str, Span], base: Version, whole: Path) -> None:
        self.constants.check_weights(index, partial=True)
        if base.number == BUILT_IN.number:
            raise BaseHasNoFile(model=self.model)
        with self.store.open(base) as base_file, path.open("rb") as file:
            stored = parts_in(base_file, self.store.index(base))
            merge_weights(stored, parts_in(file, index), whole, self.constants.tied)

    def _stored(
        self, path: Path, index: dict[str, Span], digest: str | None, options: SwapOptions, current: Version
    ) -> Version:
        self.constants.check_weights(index)
        check_values(path, index, self.constants, options.strict)
        return self.store.add(
            path, options.label, digest, parent=current.number, strict=options.strict, answers=current
        )


def check_values(path: Path, index: Mapping[str, Span], constants: Constants, strict: bool) -> list[str]:
    """Check the values of a file that fits; see `ContentsCheck.finish`."""
    contents = ContentsCheck(index, constants)
    with path.open("rb") as file:
        for name, span in index.items():
            if contents.reads(name):
                for chunk in file_chunks(file, span):
                    contents.take(name, np.frombuffer(chunk, np.uint8))
    return contents.finish(strict=strict)
