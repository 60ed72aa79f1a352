"""A loaded package that answers, and whose weights can be swapped while it does."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from aoti_serve.errors import (
    ContainerClosed,
    IncompatiblePackage,
    InvalidInputData,
    MissingTensor,
    NothingStaged,
    NothingToRollBack,
    UnknownTensor,
    WeightsMissing,
    WrongTensorDtype,
    WrongTensorShape,
)
from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.gate import Gate
from aoti_serve.model.package import Package
from aoti_serve.model.signature import Shaped
from aoti_serve.tensors import DTYPES, ConstantSpec

_DTYPE_NAMES = {getattr(torch, name): name for name in DTYPES}
BUILT_IN = 0
_ALIGNMENT = 64  # AOTI_CONST_ALIGNMENT: what the library pads each constant to


class Container:
    """One package on one device: `num_runners` runners over an active and an inactive constant buffer.

    Methods may be called from any thread of one process. `run` releases the GIL and waits for a free runner; `stage`
    works on the inactive buffer while runs go on; `commit` and `rollback` pause runs for as long as the longest one in
    flight. `version` is the one that answers, `previous` the one that is resident behind it, `staged` the one that
    waits for its commit; None where there is none.
    """

    def __init__(self, package: Package | str | os.PathLike[str], *, num_runners: int = 1, device: str = "cpu") -> None:
        self.package = package if isinstance(package, Package) else Package.open(package)
        self.signature = self.package.signature
        self.package.check_runs_here()
        self.device = torch.device(device)
        if self.device.type != self.package.device:
            reason = f"compiled for {self.package.device}, asked to run on {device}"
            raise IncompatiblePackage(path=self.package.path, reason=reason)
        self.num_runners = num_runners
        self.version: int | None = BUILT_IN if self.package.carries_weights else None
        self.previous: int | None = None
        self.staged: int | None = None
        self._gate = Gate(num_runners)
        self._staging = threading.RLock()
        self.closed = False
        self._native = NativeContainer(self.package.extract(), num_runners, _native_device(self.device))
        self._constants = {spec.name: spec for spec in self.signature.constants}
        self._check_against_library()

    def run(self, inputs: Mapping[str, torch.Tensor] | Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Outputs by name, for inputs by name or in the signature's order. See `infer`."""
        return self.infer(inputs)[1]

    def infer(self, inputs: Mapping[str, torch.Tensor] | Sequence[torch.Tensor]) -> tuple[int, dict[str, torch.Tensor]]:
        """The version that computed, and its outputs.

        Raises an InvalidInput that names the input, WeightsMissing, or ContainerClosed; in each case nothing has run.
        """
        ordered = self._checked(inputs)
        with self._gate.admitted():
            self._check_open()
            if self.version is None:
                raise WeightsMissing()
            version, outputs = self.version, self._native.run(ordered)
            self._synchronize()
        return version, {spec.name: tensor for spec, tensor in zip(self.signature.outputs, outputs, strict=True)}

    def stage(self, weights: Mapping[str, torch.Tensor], version: int | None = None) -> None:
        """Check `weights` in full, then copy them into the inactive buffer and fold there.

        `version` is the number that answers will name after `commit`; the next one if left out. What was resident
        there, the previous version or an earlier stage, is gone. Raises an InvalidWeights that names the tensor;
        nothing has changed then.
        """
        prepared = self._prepared(weights)
        with self._staging:
            self._check_open()
            self.previous = self.staged = None
            try:
                self._native.update_inactive(prepared)
            except BaseException:
                self._native.free_inactive()
                raise
            self._fold()
            self.staged = (self.version or BUILT_IN) + 1 if version is None else version

    def commit(self) -> None:
        """Make the staged version the active one; the one before stays resident for `rollback`."""
        with self._staging:
            if self.staged is None:
                raise NothingStaged()
            self._flip(self.staged)

    def rollback(self) -> None:
        """Make the resident previous version the active one again; moves no data."""
        with self._staging:
            if self.previous is None:
                raise NothingToRollBack(model=self.package.path.name)
            self._flip(self.previous)

    def abort(self) -> None:
        """Throw away what is staged, if anything is."""
        with self._staging:
            if self.staged is not None:
                self.staged = None
                self._native.free_inactive()

    def release(self) -> None:
        """Give back the memory of the inactive buffer: of the previous version, or of what is staged."""
        with self._staging:
            self._check_open()
            self.previous = self.staged = None
            self._native.free_inactive()

    def close(self) -> None:
        """Let runs in flight end, then give back all memory; later calls raise ContainerClosed. May be repeated."""
        with self._staging, self._gate.closed():
            if not self.closed:
                self.closed = True
                self._native.delete()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fold(self) -> None:
        # A copy to a card is asynchronous; folding on another stream would bake stale values (upstream #186963).
        self._synchronize()
        try:
            self._native.fold_inactive()
        except BaseException:
            self.close()  # the runtime leaves one runner mapped to the inactive buffer: it must not answer again
            raise
        self._synchronize()

    def _flip(self, version: int) -> None:
        self._check_open()
        with self._gate.closed():
            self._native.swap()
            self.version, self.previous = version, self.version
            self.staged = None

    def _check_open(self) -> None:
        if self.closed:
            raise ContainerClosed()

    def _check_against_library(self) -> None:
        """A package whose metadata was written for other code would let wrong tensors through to native memory."""
        native = {constant.fqn: constant.nbytes for constant in self._native.constants if not constant.folded}
        declared = {spec.name: -(-spec.nbytes // _ALIGNMENT) * _ALIGNMENT for spec in self.signature.constants}
        if native != declared or self._native.num_inputs != len(self.signature.inputs):
            self.close()
            different = sorted(name for name, _ in native.items() ^ declared.items())
            reason = f"its library and its signature differ (constants {different})"
            raise IncompatiblePackage(path=self.package.path, reason=reason)

    def _checked(self, inputs: Mapping[str, torch.Tensor] | Sequence[torch.Tensor]) -> list[torch.Tensor]:
        names = [spec.name for spec in self.signature.inputs]
        if not isinstance(inputs, Mapping):
            if len(inputs) != len(names):
                raise InvalidInputData(name=", ".join(names), detail=f"{len(inputs)} tensors for {len(names)} inputs")
            inputs = dict(zip(names, inputs, strict=True))
        self.signature.check_inputs({name: _shaped(name, tensor) for name, tensor in inputs.items()})
        return [inputs[name].to(self.device).contiguous() for name in names]

    def _prepared(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in weights:
            if name not in self._constants and name not in self.signature.unused:
                raise UnknownTensor(name=name)
        for name in self._constants:
            if name not in weights:
                raise MissingTensor(name=name)
        return {name: _laid_out(weights[name], spec) for name, spec in self._constants.items()}

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _shaped(name: str, tensor: Any) -> Shaped:
    if not isinstance(tensor, torch.Tensor):
        raise InvalidInputData(name=name, detail=f"a {type(tensor).__name__} instead of a tensor")
    return Shaped(_DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


def _laid_out(tensor: torch.Tensor, spec: ConstantSpec) -> torch.Tensor:
    """The tensor on the host with the strides that the code was compiled for, in a storage that holds only it.

    The runtime copies a tensor's whole storage from its data pointer and trusts its strides: views, slices of a larger
    buffer and transposed tensors would crash it or silently change the answers.
    """
    got = _DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))
    if got != spec.dtype:
        raise WrongTensorDtype(name=spec.name, got=got, expected=spec.dtype)
    if tuple(tensor.shape) != spec.shape:
        raise WrongTensorShape(name=spec.name, got=list(tensor.shape), expected=list(spec.shape))
    tensor = tensor.detach().cpu()
    own = tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == spec.nbytes
    if own and tensor.stride() == spec.stride:
        return tensor
    return torch.empty_strided(spec.shape, spec.stride, dtype=tensor.dtype).copy_(tensor)


def _native_device(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else f"{device.type}:{device.index or 0}"
