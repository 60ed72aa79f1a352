"""Which variants of a module are compiled, with what inputs, and the one signature under which they are served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from aoti_serve.model.program.padding import PaddedModule, Rules, padding_of, served_signature
from aoti_serve.model.program.sizes import Examples, grid_of
from aoti_serve.signature.padding import Lengths
from aoti_serve.signature.signature import Signature

ONLY = "model"  # the name in the archive of a package without variants


class VariantPlan:
    """The variants of a module: one for each combination of `sizes`, which are by the names of its dimensions.

    `rules` say how inputs are padded. The module is run, eagerly, if there are either. Raises UnsupportedModule.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: Any,
        dynamic_shapes: Any,
        sizes: Mapping[str, Sequence[int]],
        rules: Rules,
        *,
        inexact: bool,
    ) -> None:
        self.variants = grid_of(sizes)
        self._given = inputs, dynamic_shapes
        self._sizes, self._rules = sizes, rules
        self._examples: Examples | None = None
        if sizes or rules:
            self._examples = Examples(module, inputs, dynamic_shapes)
            self._examples.check_known(list(sizes))
            self._batch = next((name for name in sizes if self._examples.leads(name)), None)
            self._module = self._measured(module, self._examples, inexact)
            if self._batch:
                self._module.check_rows(self._batch)

    def _measured(self, module: torch.nn.Module, examples: Examples, inexact: bool) -> PaddedModule:
        """The module at its largest sizes; what counts are the dimensions that have sizes, or are padded."""
        largest = examples.lengths | {name: max(each) for name, each in self._sizes.items()}
        self._padded = [name for name in largest if not examples.leads(name) and (self._rules or name in self._sizes)]
        return PaddedModule(module, examples, largest, {*self._sizes, *self._padded}, inexact=inexact)

    @property
    def sizes_by_name(self) -> dict[str, Lengths]:
        """The variants by their names in the archive; none if the package has one model for all sizes."""
        return {self.name(lengths): lengths for lengths in self.variants} if self._sizes else {}

    def name(self, lengths: Lengths) -> str:
        return "-".join(f"{name}{size}" for name, size in lengths.items()) or ONLY

    def at(self, lengths: Lengths) -> tuple[Any, Any]:
        """The example inputs and dynamic shapes of a variant."""
        return self._given if self._examples is None else self._examples.at(lengths)

    def check(self, signature: Signature) -> None:
        """Check the rules against one variant's signature, and the module against the rules."""
        if self._examples is None:
            return
        padding = padding_of(self._rules, self._varied([signature]), self._sizes)
        for name in self._padded:
            if padding:
                self._module.check_padding(name, padding, signature.inputs)

    def served(self, signatures: Sequence[Signature]) -> Signature:
        """The one signature of all variants, in their order."""
        if self._examples is None:
            return signatures[0]
        served = self._varied(signatures)
        return served.model_copy(update={"padding": padding_of(self._rules, served, self._sizes)})

    def _varied(self, signatures: Sequence[Signature]) -> Signature:
        assert self._examples is not None
        variants = list(zip(self.variants, signatures, strict=False))
        return served_signature(variants, self._examples.axes, self._module.outputs, self._batch)
