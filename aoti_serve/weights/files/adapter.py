"""What a LoRA adapter makes of the weights that it is merged into. Its tensors are named as PEFT names them:

base_model.model.<module>.lora_A.weight       with lora_B.weight: of <module>.weight, a linear layer's or convolution's
base_model.model.<module>.lora_embedding_A    with lora_embedding_B: of an embedding's
base_model.model.<name>                       a whole tensor: a bias, or one of `modules_to_save`
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from aoti_serve.errors import UnfitAdapter, UnknownTensor
from aoti_serve.weights.adapter_config import INSTEAD, AdapterConfig
from aoti_serve.weights.files.low_rank import FLOATS, MAX_FACTOR_ELEMENTS, LowRankUpdate
from aoti_serve.weights.files.merge import FilePart, Part

PEFT_PREFIX = "base_model.model."
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>A\.weight|B\.weight|embedding_A|embedding_B)")
LINEAR, EMBEDDING = {"A.weight", "B.weight"}, {"embedding_A", "embedding_B"}


def adapted_parts(
    adapter: Mapping[str, FilePart], base: Mapping[str, FilePart], config: AdapterConfig, tied: Mapping[str, str]
) -> dict[str, Part]:
    """The tensors that an adapter changes or replaces, by their names in the base.

    Raises UnfitAdapter for what cannot be merged, and UnknownTensor if it is to be added to what the base does not
    have. Whether a whole tensor fits is left to be checked.
    """
    whole, factors = _sorted(adapter)
    changes: dict[str, Part] = dict(whole)
    for module, pair in factors.items():
        name = f"{module}.weight"
        if name not in whole and name not in base:
            raise UnknownTensor(name=name, hint=", which the adapter adds to; was it trained on the packaged module?")
        changes[name] = _update(module, whole.get(name) or base[name], pair, config)
    _check_ties(changes, tied)
    return changes


def _sorted(adapter: Mapping[str, FilePart]) -> tuple[dict[str, FilePart], dict[str, dict[str, FilePart]]]:
    """The whole tensors by name, and the factors by module and kind."""
    whole: dict[str, FilePart] = {}
    factors: dict[str, dict[str, FilePart]] = defaultdict(dict)
    for name, part in adapter.items():
        if not name.startswith(PEFT_PREFIX):
            raise UnfitAdapter(what=f"tensor '{name}'", detail=f"PEFT's names begin with '{PEFT_PREFIX}'; {INSTEAD}")
        plain = name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
        found = FACTOR.fullmatch(plain)
        if found is None and ".lora_" in plain:
            raise UnfitAdapter(what=f"tensor '{name}'", detail=f"its kind is not supported; {INSTEAD}")
        place, key = (factors[found["module"]], found["kind"]) if found else (whole, plain)
        if key in place:
            raise UnfitAdapter(what=f"tensor '{name}'", detail=f"there are two for one place; {INSTEAD}")
        place[key] = part
    return whole, factors


def _update(module: str, old: FilePart, pair: Mapping[str, FilePart], config: AdapterConfig) -> LowRankUpdate:
    for why in _misfits(module, old, pair, config):
        raise UnfitAdapter(what=f"'{module}'", detail=why)
    a, b = (pair[kind] for kind in sorted(pair))
    transposed = pair.keys() == EMBEDDING
    left, right = (a, b) if transposed else (b, a)
    return LowRankUpdate(old, left, right, config.rank(module), config.scale(module), transposed)


def _misfits(module: str, old: FilePart, pair: Mapping[str, FilePart], config: AdapterConfig) -> Iterator[str]:
    if pair.keys() not in (LINEAR, EMBEDDING):
        yield f"of the tensors of a pair it has {' and '.join(f'lora_{kind}' for kind in sorted(pair))}; {INSTEAD}"
    spans = [part.span for part in (old, *(pair[kind] for kind in sorted(pair)))]
    shape, a, b = (span.shape for span in spans)
    if not _fits(shape, a, b, pair.keys() == EMBEDDING):
        yield f"A {list(a)} and B {list(b)} do not make {list(shape)}; was it trained on the packaged module?"
    if not {span.dtype for span in spans} <= FLOATS.keys():
        yield f"dtypes {', '.join(span.dtype for span in spans)}: only {', '.join(FLOATS)} can be added; {INSTEAD}"
    if a[0] != config.rank(module):
        yield f"its rank is {a[0]}, and by its settings {config.rank(module)}: they are those of another adapter"
    if max(math.prod(a), math.prod(b)) > MAX_FACTOR_ELEMENTS:
        yield f"one of its tensors has more than {MAX_FACTOR_ELEMENTS} elements; {INSTEAD}"


def _fits(shape: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...], transposed: bool) -> bool:
    """Whether A, [rank, inputs], and B, [outputs, rank], make a weight of this shape; `transposed`: its transpose.

    For a convolution the inputs are all that an output sees, so that A has its kernel, and B one of 1x1.
    """
    if len(shape) < 2 or not a:
        return False
    if transposed:
        return len(shape) == 2 and a[1:] == shape[:1] and b == (shape[1], a[0])
    return a[1:] == shape[1:] and b[:2] == (shape[0], a[0]) and math.prod(b[2:]) == 1


def _check_ties(changed: Collection[str], tied: Mapping[str, str]) -> None:
    """An adapter was trained on one of a constant's names; under the others the package would change with it."""
    names: dict[str, set[str]] = defaultdict(set)
    for further, name in tied.items():
        names[name] |= {name, further}
    for name in changed:
        if missing := names[tied.get(name, name)].difference(changed):
            detail = f"the package ties it to '{min(missing)}', which the adapter does not change; package it untied"
            raise UnfitAdapter(what=f"tensor '{name}'", detail=detail)
