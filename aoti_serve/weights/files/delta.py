"""What a delta makes of the weights that it was made from. It is a safetensors file of what has changed in them:

<name>                      a whole tensor
<name>::rows                int64 [k], numbers of rows along the first dimension, with <name>::values [k, *shape[1:]]
<name>::elements            int64 [k], indices into the flattened tensor, with <name>::values [k]

Numbers increase strictly, and values have the tensor's own dtype. `base_digest` in `__metadata__` is the sha256 of the
file of the version that it was made from.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import safe_open

from aoti_serve.errors import UnfitTensor, UnreadableWeights
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.merge import FilePart, Part
from aoti_serve.weights.files.sparse import MAX_UNIT_BYTES, SparseUpdate, wrong_position

BASE_DIGEST = "base_digest"
ROWS, ELEMENTS, VALUES = "rows", "elements", "values"
_KINDS = {ROWS, ELEMENTS, VALUES}


def part_name(name: str, kind: str) -> str:
    """The name of the rows, the elements or the values of a tensor."""
    return f"{name}::{kind}"


def check_no_delta(names: Iterable[str]) -> None:
    """Raise UnreadableWeights if a tensor is one of a delta's, in weights that were not said to be one."""
    for name in names:
        if "::" in name and name.rpartition("::")[2] in _KINDS:
            detail = f"'{name}' is changed rows or elements of a tensor: say --delta (delta=true)"
            raise UnreadableWeights(detail=detail)


def base_digest_in(path: Path) -> str:
    """The digest of the version that a delta was made from. Raises UnreadableWeights if the file does not say it."""
    with safe_open(path, framework="numpy") as file:
        found: str | None = (file.metadata() or {}).get(BASE_DIGEST)
    if found is None:
        why = f"a delta needs `{BASE_DIGEST}` in its __metadata__: the digest of the version that it was made from"
        raise UnreadableWeights(detail=why)
    return found.lower()


def delta_parts(
    delta: Mapping[str, FilePart], base: Mapping[str, FilePart], tied: Mapping[str, str]
) -> dict[str, Part]:
    """The tensors that a delta changes, by their names in it. Raises UnfitTensor for a part that cannot be merged.

    Whether a whole tensor fits is left to be checked. A constant that the base has under another of its names is
    changed by each of them.
    """
    whole, pairs = _sorted(delta)
    changes: dict[str, Part] = dict(whole)
    for name, pair in pairs.items():
        if name in whole:
            raise UnfitTensor(name=name, detail="it comes whole and in parts; send it in one way")
        changes[name] = _update(name, _old(name, base, tied), pair)
    return changes


def _sorted(delta: Mapping[str, FilePart]) -> tuple[dict[str, FilePart], dict[str, dict[str, FilePart]]]:
    """The whole tensors by name, and the parts of others by name and kind."""
    whole: dict[str, FilePart] = {}
    pairs: dict[str, dict[str, FilePart]] = defaultdict(dict)
    for full, part in delta.items():
        name, _, kind = full.rpartition("::")
        if name and kind in _KINDS:
            pairs[name][kind] = part
        else:
            whole[full] = part
    return whole, pairs


def _old(name: str, base: Mapping[str, FilePart], tied: Mapping[str, str]) -> FilePart:
    if name in base:
        return base[name]
    home = tied.get(name, name)
    for other, part in base.items():
        if tied.get(other, other) == home:
            return part
    raise UnfitTensor(name=name, detail="the version that the delta changes does not hold it; is the name right?")


def _update(name: str, old: FilePart, pair: Mapping[str, FilePart]) -> Part:
    kinds = pair.keys() - {VALUES}
    if len(kinds) != 1 or VALUES not in pair:
        raise UnfitTensor(
            name=name,
            detail=f"of its changes there are {' and '.join(sorted(pair))}: send rows or elements, and values",
        )
    (kind,) = kinds
    positions, values, shape = pair[kind], pair[VALUES], _unit_shape(old.span, kind)
    for wrong, detail in _misfits(kind, old.span, positions.span, values.span, shape):
        raise UnfitTensor(name=part_name(name, wrong), detail=detail)
    count = math.prod(old.span.shape[: len(old.span.shape) - len(shape)])
    unit = (old.span.end - old.span.begin) // max(count, 1)  # 0 if its rows are empty: then there is nothing to change
    if wrong_number := wrong_position(positions, count):
        raise UnfitTensor(name=part_name(name, kind), detail=wrong_number)
    if unit > MAX_UNIT_BYTES:
        detail = f"a row of it has {unit} bytes, and more than {MAX_UNIT_BYTES} are not merged; send it whole"
        raise UnfitTensor(name=name, detail=detail)
    return SparseUpdate(old, positions, values, unit) if unit else old


def _unit_shape(old: Span, kind: str) -> tuple[int, ...]:
    """The shape of a row, or of an element."""
    return old.shape[1:] if kind == ROWS and old.shape else ()


def _misfits(kind: str, old: Span, positions: Span, values: Span, unit: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """What is wrong with the forms of a pair: which of the two, and why."""
    if kind == ROWS and not old.shape:
        yield ROWS, "the tensor has no dimension and so no rows; send it whole"
    if positions.dtype != "int64" or len(positions.shape) != 1:
        yield kind, f"{positions.dtype} {list(positions.shape)}: the numbers of {kind} are int64 [k]"
    expected = [*positions.shape, *unit]
    if (values.dtype, list(values.shape)) != (old.dtype, expected):
        got = f"{values.dtype} {list(values.shape)}"
        yield VALUES, f"{got}: the values of these {kind} are {old.dtype} {expected}"
