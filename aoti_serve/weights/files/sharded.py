"""A checkpoint in several files, as Hugging Face saves large models: an index says which file holds each tensor.

{"metadata": {...}, "weight_map": {"embed.weight": "model-00001-of-00002.safetensors", ...}}
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from aoti_serve.errors import UnreadableWeights, WeightsTooLarge, problems
from aoti_serve.errors.file_kinds import FORMAT_MAX_HEADER_BYTES
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import file_chunks, read_index
from aoti_serve.weights.files.pickles import INDEX_SUFFIX, pickled

INDEX_NAME = "model.safetensors.index.json"
MAX_FILE_NAME = 255


def is_shard_index(name: str) -> bool:
    """Whether a file of this name says which files hold a checkpoint, instead of holding tensors."""
    return name.endswith(".index.json")


class ShardPart(NamedTuple):
    """A tensor in a shard, which is opened when the bytes are asked for; `state` is how its file was before."""

    path: Path
    shard: str
    state: tuple[int, ...]
    span: Span

    def chunks(self) -> Iterator[bytes]:
        """Raises UnreadableWeights, which names the shard, also if it is another file now."""
        try:
            with self.path.open("rb") as file:
                if _state(os.fstat(file.fileno())) != self.state:
                    raise _unreadable(self.shard, "it has changed while it was read; begin anew")
                yield from file_chunks(file, self.span)
        except OSError as error:
            raise _unreadable(self.shard, error.strerror or error) from error


@dataclass(frozen=True)
class ShardIndex:
    """The shard of each tensor, by the tensor's name. `place` is what errors call the index."""

    place: str
    shard_of: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, max_bytes: int = FORMAT_MAX_HEADER_BYTES) -> ShardIndex:
        """Raises UnreadableWeights and WeightsTooLarge."""
        try:
            with path.open("rb") as file:
                content = file.read(max_bytes + 1)
        except OSError as error:
            raise UnreadableWeights(detail=f"{path}: {error.strerror}") from error
        if len(content) > max_bytes:
            raise WeightsTooLarge(limit=max_bytes, unit="bytes of index", setting="gateway.max_weights_header_bytes")
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: bytes, place: str, max_tensors: int | None = None) -> ShardIndex:
        """Raises UnreadableWeights for what is no such index, or names files elsewhere; WeightsTooLarge."""
        try:
            shard_of = _Written.model_validate_json(content).weight_map
        except ValidationError as error:
            detail = f'{place} is no index of shards, {{"weight_map": {{tensor: file}}}}: {problems(error.errors())}'
            raise UnreadableWeights(detail=detail) from error
        if max_tensors is not None and len(shard_of) > max_tensors:
            raise WeightsTooLarge(limit=max_tensors, unit="tensors", setting="gateway.max_weights_tensors")
        for name, shard in shard_of.items():
            _check_beside(shard, name, place)
        return cls(place, shard_of)

    @property
    def shards(self) -> list[str]:
        """The names of the files."""
        return sorted(set(self.shard_of.values()))

    def join(self, files: Mapping[str, Path], max_header_bytes: int | None = None) -> dict[str, ShardPart]:
        """All tensors, by name. `files` has the path of each shard. Raises UnreadableWeights if they do not hold what
        the index says, each tensor once, and nothing else; WeightsTooLarge.
        """
        parts: dict[str, ShardPart] = {}
        for shard in self.shards:
            for name, part in _tensors_in(shard, files[shard], max_header_bytes).items():
                if name in parts:
                    raise UnreadableWeights(detail=f"tensor '{name}' is in two shards, {parts[name].shard} and {shard}")
                if name not in self.shard_of:
                    raise _unreadable(shard, f"it holds tensor '{name}', which {self.place} does not name")
                parts[name] = part
        for name, shard in self.shard_of.items():
            if name not in parts or parts[name].shard != shard:
                raise _unreadable(shard, f"it lacks tensor '{name}', which {self.place} says it holds")
        return parts


class _Written(BaseModel):
    weight_map: dict[str, str]


def _check_beside(shard: str, name: str, place: str) -> None:
    """A file beside the index has a name without folders: others would lead to files that nobody has allowed."""
    elsewhere = shard in ("", ".", "..") or "/" in shard or "\\" in shard
    if elsewhere or not shard.isprintable() or len(shard) > MAX_FILE_NAME:
        raise UnreadableWeights(detail=f"{place}: the shard of tensor '{name}', {shard!r}, is no file beside it")
    if place.endswith(INDEX_SUFFIX):
        raise pickled(place)
    if not shard.endswith(".safetensors"):
        raise UnreadableWeights(detail=f"{place}: shard {shard} is not called *.safetensors; save it in that format")


def _tensors_in(shard: str, path: Path, max_header_bytes: int | None) -> dict[str, ShardPart]:
    try:
        state = _state(path.stat())
        index = read_index(path, max_header_bytes=max_header_bytes)
    except OSError as error:
        raise _unreadable(shard, error.strerror) from error
    except UnreadableWeights as error:
        raise _unreadable(shard, error.detail) from error
    return {name: ShardPart(path, shard, state, span) for name, span in index.items()}


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _unreadable(shard: str, why: object) -> UnreadableWeights:
    return UnreadableWeights(detail=f"shard {shard}: {why}")
