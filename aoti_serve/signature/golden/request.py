"""A golden request, and the judgement of an answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from aoti_serve.errors import GoldenFailed, InvalidInput, UnfitGolden, problems
from aoti_serve.signature.golden.arrays import Array, as_array, count_not_finite, form_of
from aoti_serve.signature.golden.bounds import Bounds
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import TensorSpec

LONGEST_NAME: Final = 128
FINITE: Final = Bounds()


class GoldenRequest:
    """Inputs by name, and what weights must answer to them before they are committed.

    `outputs` are the expected ones, as far as they are known, and `bounds` say by output how near an answer must be
    (see `Bounds`, or a dict with its fields). An output without bounds must be finite. Tensors are torch's or numpy's,
    and are copied.
    Raises UnfitGolden, also for an expected output with which no bound compares: it would not be looked at.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any] | None = None,
        bounds: Mapping[str, Bounds | Mapping[str, Any]] | None = None,
    ) -> None:
        self.name = name
        self._check_name()
        self.inputs = self._arrays("input", inputs)
        self.outputs = self._arrays("output", outputs or {})
        self.bounds: Mapping[str, Bounds] = MappingProxyType(
            {output: self._bounds(output, given) for output, given in (bounds or {}).items()}
        )
        self._check_bounds()

    def fitted(self, signature: Signature) -> GoldenRequest:
        """The same under the signature's own names. Raises UnfitGolden if the package cannot be asked this."""
        try:
            inputs = signature.by_input(self.inputs)
            signature.check_inputs(signature.with_masks({name: form_of(array) for name, array in inputs.items()}))
            outputs = {signature.output_named(name): array for name, array in self.outputs.items()}
            bounds = {signature.output_named(name): bound for name, bound in self.bounds.items()}
        except InvalidInput as error:
            raise self.unfit(str(error)) from error
        for spec in signature.outputs:
            self._check_expected(spec, outputs.get(spec.name))
        return GoldenRequest(self.name, inputs, outputs, bounds)

    def judge(self, outputs: Mapping[str, Array]) -> None:
        """Raise GoldenFailed for the first output that does not keep to a bound. All of a package's are given."""
        for name, output in outputs.items():
            for miss in self.bounds.get(name, FINITE).misses(output, self.outputs.get(name)):
                raise GoldenFailed(request=self.name, output=name, **miss._asdict())

    def unfit(self, detail: str) -> UnfitGolden:
        """The error for a golden request that cannot be used."""
        return UnfitGolden(request=self.name, detail=detail)

    def _check_name(self) -> None:
        if not self.name.isprintable() or not 0 < len(self.name) <= LONGEST_NAME or {"/", "*"} & set(self.name):
            raise self.unfit(f"its name must be 1 to {LONGEST_NAME} printable characters without / and *")

    def _arrays(self, kind: str, tensors: Mapping[str, Any]) -> Mapping[str, Array]:
        return MappingProxyType({name: self._array(f"{kind} '{name}'", tensor) for name, tensor in tensors.items()})

    def _array(self, what: str, tensor: Any) -> Array:
        try:
            return as_array(tensor).copy()
        except ValueError as error:
            raise self.unfit(f"{what}: {error}") from error

    def _bounds(self, output: str, given: Bounds | Mapping[str, Any]) -> Bounds:
        try:
            return Bounds.model_validate(given)
        except ValidationError as error:
            known = ", ".join(Bounds.model_fields)
            raise self.unfit(f"output '{output}': bound {problems(error.errors())}; bounds are {known}") from error

    def _check_bounds(self) -> None:
        for name, bounds in self.bounds.items():
            if bounds.compares and name not in self.outputs:
                raise self.unfit(f"output '{name}' has a bound that compares, and no expected output to compare with")
        for name, expected in self.outputs.items():
            if not self.bounds.get(name, FINITE).compares:
                raise self.unfit(f"output '{name}' is expected, and no bound says how near; give it a cosine, say")
            self._check_finite(name, expected)

    def _check_finite(self, name: str, expected: Array) -> None:
        if count_not_finite(expected):
            raise self.unfit(f"output '{name}' is expected with values that are no finite numbers")

    def _check_expected(self, spec: TensorSpec, expected: Array | None) -> None:
        if expected is None:
            return
        sizes = zip(spec.shape, expected.shape, strict=False)
        if len(spec.shape) != expected.ndim or any(isinstance(dim, int) and dim != size for dim, size in sizes):
            shape = list(expected.shape)
            raise self.unfit(f"output '{spec.name}' is expected in shape {shape}, it has {spec.describe_shape()}")
