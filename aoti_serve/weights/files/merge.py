"""Make a whole file of weights from a base: some of its tensors are replaced, by what a file or a computation gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from aoti_serve.errors import StoreFailed
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import file_chunks, file_order, header_of


class Part(Protocol):
    """A tensor to write. Of its `span` the form and the length count; its bytes are made when they are written."""

    @property
    def span(self) -> Span: ...

    def chunks(self) -> Iterable[bytes]: ...


class FilePart(NamedTuple):
    """A tensor in an open file."""

    file: BinaryIO
    span: Span

    def chunks(self) -> Iterator[bytes]:
        return file_chunks(self.file, self.span)


def parts_in(file: BinaryIO, index: Mapping[str, Span]) -> dict[str, FilePart]:
    return {name: FilePart(file, span) for name, span in index.items()}


def merge_weights(base: Mapping[str, Part], changes: Mapping[str, Part], target: Path, tied: Mapping[str, str]) -> None:
    """Write to `target` a whole safetensors file: the base with the changed tensors in place of its own.

    `tied` maps further names of a constant to it: with one of its names, all that the base holds are changed; with
    several, each to its own value, so that a contradiction stays to be found. Names that only the changes hold are
    added. Raises StoreFailed if the target cannot be written, or one of the parts not read.
    """
    parts = dict(base) | dict(_spread(base, changes, tied))
    try:
        with target.open("wb") as file:
            file.writelines(whole_file(parts))
    except OSError as error:
        raise StoreFailed.of(target.parent, error, "the changes could not be merged") from error


def whole_file(parts: Mapping[str, Part]) -> Iterator[bytes]:
    """Yield the bytes of a safetensors file with these tensors, a few megabytes at a time."""
    spans = {name: part.span for name, part in parts.items()}
    yield header_of(spans)
    for name in file_order(spans):
        yield from parts[name].chunks()


def _spread(base: Iterable[str], changes: Mapping[str, Part], tied: Mapping[str, str]) -> Iterable[tuple[str, Part]]:
    """The changes, under each name of their constants that the base has as well."""
    names = defaultdict(list)
    for name in base:
        names[tied.get(name, name)].append(name)
    for changed, part in changes.items():
        yield from ((name, part) for name in names[tied.get(changed, changed)] if name not in changes)
        yield changed, part
