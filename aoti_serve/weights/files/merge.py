"""Make the file of a partial swap: the current weights with some tensors replaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from aoti_serve.errors import StoreFailed
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import file_chunks, file_order, header_of


def merge_weights(
    base_file: BinaryIO,
    base_index: Mapping[str, Span],
    changes: Path,
    changes_index: Mapping[str, Span],
    target: Path,
    tied: Mapping[str, str],
) -> None:
    """Write to `target` a whole safetensors file: the base with the changed tensors in place of its own.

    `tied` maps further names of a constant to it: with one of its names, all that the base holds are changed; with
    several, each to its own value, so that a contradiction stays to be found. Names that only the changes hold are
    added. Raises StoreFailed if the target cannot be written, or one of the files not read.
    """
    try:
        with changes.open("rb") as changes_file, target.open("wb") as file:
            parts = {name: (base_file, span) for name, span in base_index.items()}
            parts |= {name: (changes_file, span) for name, span in _spread(base_index, changes_index, tied)}
            spans = {name: span for name, (_, span) in parts.items()}
            file.write(header_of(spans))
            for name in file_order(spans):
                file.writelines(file_chunks(*parts[name]))
    except OSError as error:
        raise StoreFailed(path=target.parent, detail=f"the changes could not be merged: {error}") from error


def _spread(base: Iterable[str], changes: Mapping[str, Span], tied: Mapping[str, str]) -> Iterable[tuple[str, Span]]:
    """The changes, under each name of their constants that the base has as well."""
    names = defaultdict(list)
    for name in base:
        names[tied.get(name, name)].append(name)
    for changed, span in changes.items():
        yield from ((name, span) for name in names[tied.get(changed, changed)] if name not in changes)
        yield changed, span
