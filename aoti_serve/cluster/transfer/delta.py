"""What has changed in weights, as a trainer knows or finds it, and the file that says so (weights/files/delta.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from aoti_serve.cluster.transfer.tensors import tensor_pieces
from aoti_serve.errors import UnfitTensor
from aoti_serve.weights.files.delta import BASE_DIGEST, ELEMENTS, ROWS, VALUES, part_name

if TYPE_CHECKING:
    import torch

NUMBER_BYTES = 8


@dataclass(frozen=True, eq=False)
class RowChanges:
    """New `values` [k, *shape[1:]], in the constant's dtype, of the rows whose numbers along its first dimension are
    `rows`: int64 [k], strictly increasing.
    """

    rows: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, eq=False)
class ElementChanges:
    """New `values` [k], in the constant's dtype, of the elements whose indices into the flattened constant are
    `elements`: int64 [k], strictly increasing.
    """

    elements: torch.Tensor
    values: torch.Tensor


WeightChanges: TypeAlias = "Mapping[str, RowChanges | ElementChanges | torch.Tensor]"


class Delta(NamedTuple):
    """Changes by constant, of which a tensor stands for all of it, to the version whose file has this sha256."""

    changes: WeightChanges
    base_digest: str

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes of its file. Raises UnfitTensor."""
        tensors = dict(pair for name, change in self.changes.items() for pair in _tensors_of(name, change))
        return tensor_pieces(tensors, {BASE_DIGEST: self.base_digest})


def save_delta(changes: WeightChanges, path: str | Path, base_digest: str) -> None:
    """Write changes to the version with this digest to a file, for `aoti-serve swap MODEL FILE --delta`.

    Raises UnfitTensor, and OSError if it cannot be written.
    """
    with Path(path).open("wb") as file:
        file.writelines(Delta(changes, base_digest).pieces())


def make_delta(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> dict[str, RowChanges | ElementChanges | torch.Tensor]:
    """Find what differs, bit by bit, between two state dicts, and say it in the fewest bytes: by rows, by elements, or
    by whole tensors; what is equal is left out.

    `before` must be copies: a module's own state dict changes with it. Beside the tensors it takes a byte for each
    element of one of them, besides what it returns. Raises UnfitTensor for a tensor that only one of both has.
    """
    for name in before.keys() ^ after.keys():
        raise UnfitTensor(name=name, detail="only one of both state dicts has it; a delta changes values")
    found = {name: _change(before[name].detach(), after[name].detach()) for name in after}
    return {name: change for name, change in found.items() if change is not None}


def _change(old: torch.Tensor, new: torch.Tensor) -> RowChanges | ElementChanges | torch.Tensor | None:
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        return new
    differs = _bits(old) != _bits(new)
    if not (elements := int(differs.count_nonzero())):
        return None
    moved = differs.reshape(len(new), -1).any(1) if new.ndim else differs
    row_bytes = new.nbytes // len(new) if new.ndim else new.nbytes
    by_rows = int(moved.count_nonzero()) * (NUMBER_BYTES + row_bytes)
    by_elements = elements * (NUMBER_BYTES + new.element_size())
    if min(by_rows, by_elements) >= new.nbytes:
        return new
    if by_rows <= by_elements:
        return RowChanges(_numbers(moved), new[moved])
    return ElementChanges(_numbers(differs.flatten()), new[differs])


def _numbers(marked: torch.Tensor) -> torch.Tensor:
    return marked.nonzero().squeeze(1)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Its elements as integers, so that a NaN equals itself, and -0.0 is not 0.0."""
    import torch

    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(sizes[tensor.element_size()])


def _tensors_of(name: str, change: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(change, RowChanges):
        yield from {part_name(name, ROWS): change.rows, part_name(name, VALUES): change.values}.items()
    elif isinstance(change, ElementChanges):
        yield from {part_name(name, ELEMENTS): change.elements, part_name(name, VALUES): change.values}.items()
    else:
        yield name, change
