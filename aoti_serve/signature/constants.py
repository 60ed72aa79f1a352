"""The constants of a package, and the check of weights against them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from aoti_serve.errors import (
    MissingTensor,
    OtherNames,
    UnknownOrBakedTensor,
    UnknownTensor,
    WrongTensorDtype,
    WrongTensorShape,
    quantity,
)
from aoti_serve.signature.name_pattern import name_pattern
from aoti_serve.signature.tensors import CASTABLE, DTYPES, Frozen, Shaped, Span


class ConstantSpec(Frozen):
    """A constant by its FQN; `stride` in elements, as the compiled code reads it.

    `carried`: a trainer's `state_dict()` lacks it (a non-persistent buffer, a tensor that forward() makes), so weights
    may leave it out, and the package's own value, its baseline, is used. `host`: the code reads it on the host even if
    it runs on a card. `finite`: it held no infinity when the package was made.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    carried: bool = False
    host: bool = False
    finite: bool = False

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class BakedConstant(Frozen):
    """A constant whose value is compiled in; `digest` is the sha256 of its contiguous bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str


class Constants(Frozen):
    """The constants of a package, and the other names that weights for it may hold.

    `constants` can be swapped; `tied` maps further names of one of them to it; `unused` are parameters and buffers of
    the module that the compiled graph does not read (batch norm's counters, for one) and that are passed over; `baked`
    are compiled in: their values in weights must be the compiled ones. Not `baked_known`: there may be more of them.
    """

    constants: tuple[ConstantSpec, ...]
    unused: tuple[str, ...] = ()
    tied: dict[str, str] = {}
    baked: tuple[BakedConstant, ...] = ()
    baked_known: bool = True

    def check_weights(self, found: Mapping[str, Shaped | Span], *, partial: bool = False) -> None:
        """Raise an InvalidWeights that names the first tensor that does not fit.

        With `partial` any constant may be missing; else only those that the package carries itself.
        """
        specs = {spec.name: spec for spec in self.constants}
        baked = {spec.name: spec for spec in self.baked}
        self._check_names(found, {*specs, *self.tied, *baked, *self.unused})
        for name, tensor in found.items():
            spec = specs.get(self.tied.get(name, name)) or baked.get(name)
            if spec is not None:
                _check(name, tensor, spec)
        given = {self.tied.get(name, name) for name in found}
        for spec in self.constants:
            if spec.name not in given and not spec.carried and not partial:
                raise MissingTensor(name=spec.name, hint=_partial_hint(given, specs))

    def _check_names(self, found: Collection[str], known: Collection[str]) -> None:
        """Raise an UnknownTensor, of the first, or of the pattern by which all differ."""
        unknown = [name for name in found if name not in known]
        if not unknown:
            return
        pattern = name_pattern(found, known)
        if len(unknown) == len(found) and not pattern.seen and self.baked_known:
            none = f"none of its {quantity(len(found), 'tensors')} is the package's"
            raise OtherNames(name=unknown[0], pattern=none, hint=_of_another(unknown[0], known))
        if pattern.seen:
            hint = f"; they fit with {pattern.options}" if pattern.options else ""
            raise OtherNames(name=unknown[0], pattern=pattern.seen, hint=hint)
        if not self.baked_known:
            raise UnknownOrBakedTensor(name=unknown[0])
        others = f", nor {len(unknown) - 1} more of the {len(found)}" if len(unknown) > 1 else ""
        drop = f"; {pattern.options} leaves out what it does not have" if pattern.options else ""
        raise UnknownTensor(name=unknown[0], hint=others + drop)


def _partial_hint(given: Collection[str], specs: Collection[str]) -> str:
    found = len([name for name in given if name in specs])
    only = f"; they hold {found} of the package's {quantity(len(specs), 'tensors')}: to change these only, say "
    return f"{only}--partial --base-version N (partial=true&base_version=N; in Python partial=True)" if found else ""


def _of_another(name: str, known: Collection[str]) -> str:
    first = next(iter(known), None)
    theirs = "" if first is None else f", where the package has names such as '{first}'"
    return f": they are called '{name}' and so on{theirs}; are they of another model?"


def _check(name: str, tensor: Shaped | Span, spec: ConstantSpec | BakedConstant) -> None:
    if tensor.dtype != spec.dtype:
        floats = tensor.dtype in CASTABLE and spec.dtype in CASTABLE
        hint = "; --cast (cast=true) converts it, and tells by how much values are rounded" if floats else ""
        raise WrongTensorDtype(name=name, got=tensor.dtype, expected=spec.dtype, hint=hint)
    if tensor.shape != spec.shape:
        raise WrongTensorShape(name=name, got=list(tensor.shape), expected=list(spec.shape))
