"""Weights on this machine, in one file or in shards, as the bytes of one safetensors file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from aoti_serve.errors import StoreFailed, UnreadableWeights, WeightsTooLarge, quantity
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import header_of, read_index
from aoti_serve.weights.files.merge import Part, whole_file
from aoti_serve.weights.files.pickles import check_no_pickle, pickle_in, pickled
from aoti_serve.weights.files.sharded import INDEX_NAME, ShardIndex, ShardPart, is_shard_index
from aoti_serve.weights.free_space import check_room
from aoti_serve.weights.version import LONGEST_LABEL

FILE_NAME = "model.safetensors"
PIECE_BYTES = 4 * 2**20
_MOST_LISTED = 3


class SingleFile(NamedTuple):
    """One file, of which the first `nbytes` are sent, as was promised, even if it has grown since."""

    path: Path
    nbytes: int

    def pieces(self, limit: int) -> Iterator[bytes]:
        """Yield its bytes, at most `limit` at a time. Raises UnreadableWeights, also if it has become shorter."""
        left = self.nbytes
        try:
            with self.path.open("rb") as file:
                while left and (piece := file.read(min(limit, left))):
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise UnreadableWeights(detail=f"{self.path}: {error.strerror}") from error
        if left:
            detail = f"{self.path} became {quantity(left, 'bytes')} shorter while it was sent; send it again"
            raise UnreadableWeights(detail=detail)


class JoinedShards(NamedTuple):
    """The tensors of all shards in one file, which exists only while it is sent: header first, then each in its place.

    It has the bytes that a state dict with these tensors is sent as, however they were sharded.
    """

    parts: Mapping[str, ShardPart]

    @property
    def nbytes(self) -> int:
        spans = {name: part.span for name, part in self.parts.items()}
        return len(header_of(spans)) + sum(span.end - span.begin for span in spans.values())

    def pieces(self, _limit: int) -> Iterator[bytes]:
        """Yield its bytes, a few megabytes at a time. Raises UnreadableWeights."""
        parts: Mapping[str, Part] = self.parts
        return whole_file(parts)


Checkpoint: TypeAlias = SingleFile | JoinedShards


def checkpoint_in(place: Path) -> Path:
    """The file or the index of shards that a folder holds; what is no folder is itself. Raises UnreadableWeights."""
    if not os.path.isdir(place):  # Path's own raises where a name is too long, or a folder closed
        return place
    found = [place / name for name in (INDEX_NAME, FILE_NAME) if os.path.isfile(place / name)]
    others = sorted(path.name for path in place.glob("*.safetensors"))
    if not found and not others and (pickle := pickle_in(place)) is not None:
        raise pickled(str(pickle))
    if len(found) != 1:
        holds = "both" if found else "neither"
        instead = "" if found else _listed(others)
        detail = f"the folder {place} holds {holds} of {INDEX_NAME} and {FILE_NAME}{instead}"
        raise UnreadableWeights(detail=f"{detail}; name the file that is meant")
    return found[0]


def _listed(names: Sequence[str]) -> str:
    """Some of the files that a folder has instead."""
    return f", but {', '.join(names[:_MOST_LISTED])}{', ...' * (len(names) > _MOST_LISTED)}" if names else ""


def open_checkpoint(place: Path) -> Checkpoint:
    """A file, an index of shards, or the folder of either. Raises UnreadableWeights.

    Of shards the headers are read, and must hold what the index says; a single file only must not be a pickle.
    """
    path = checkpoint_in(place)
    if not os.path.isfile(path):
        raise UnreadableWeights(detail=f"no file at {path}")
    if not is_shard_index(path.name):
        check_no_pickle(path)
        return SingleFile(path, path.stat().st_size)
    index = ShardIndex.read(path)
    return JoinedShards(index.join({shard: path.with_name(shard) for shard in index.shards}))


def checkpoint_spans(place: Path) -> dict[str, Span]:
    """The tensors of a checkpoint, by name, wherever they lie. Raises UnreadableWeights."""
    found = open_checkpoint(place)
    if isinstance(found, SingleFile):
        return read_index(found.path)
    return {name: part.span for name, part in found.parts.items()}


def checkpoint_label(place: Path) -> str:
    """What to call a checkpoint: by its file, or, of a folder or an index of shards, by the folder; as far as a label
    takes the name.
    """
    name = place.stem
    if os.path.isdir(place):
        name = place.resolve().name
    elif is_shard_index(place.name):
        name = place.resolve().parent.name
    return "".join(filter(str.isprintable, name))[:LONGEST_LABEL]


def write_joined(shards: JoinedShards, target: Path, max_bytes: int | None = None) -> None:
    """Write them to `target` as one file. Raises UnreadableWeights, WeightsTooLarge and StoreFailed; `target` may be
    left half written.
    """
    if max_bytes is not None and shards.nbytes > max_bytes:
        raise WeightsTooLarge(limit=max_bytes, unit="bytes", setting="gateway.max_weights_bytes")
    check_room(shards.nbytes, target.parent)
    try:
        with target.open("wb") as file:
            file.writelines(shards.pieces(PIECE_BYTES))
    except OSError as error:
        raise StoreFailed.of(target.parent, error, "the shards could not be joined") from error
