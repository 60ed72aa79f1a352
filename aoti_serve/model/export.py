"""From a PyTorch module to a package: export, compile with swappable constants, write the signature into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from aoti_serve.errors import BakedConstants, ExportFailed, MissingTensor, UnsupportedModule
from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.package import SIGNATURE_KEY, WEIGHTS_APART, WEIGHTS_KEY, Package
from aoti_serve.model.signature import Signature
from aoti_serve.tensors import DTYPES, ConstantSpec, Dim, TensorSpec

T = TypeVar("T")
Inputs = tuple[Any, ...] | Mapping[str, Any]
_CONSTANT_KINDS = {InputKind.PARAMETER, InputKind.BUFFER}


def export_package(
    module: torch.nn.Module,
    example_inputs: Inputs,
    path: str | os.PathLike[str],
    *,
    dynamic_shapes: Any = None,
    progress: Callable[[str], None] = lambda phase: None,
) -> Package:
    """Compile `module` to a package at `path`, code only, and its weights beside it (`<stem>.safetensors`).

    `example_inputs` are positional (a tuple) or by name (a mapping); `dynamic_shapes` as in `torch.export.export`.
    Give every dynamic dimension an example of at least 2, or the compiler fixes it (upstream #151582). The module is
    exported as it is: call `.eval()` first. Takes tens of seconds, needs a C++ compiler, and leaves `path` untouched
    when it fails. Raises UnsupportedModule, BakedConstants, or what torch raises.
    """
    target = Path(path)
    if target.suffix != ".pt2":
        raise UnsupportedModule(detail=f"a package is called <name>.pt2, not {target.name}")
    if module.training:
        raise UnsupportedModule(detail="the module is in training mode; call .eval() on it first")
    progress("exporting")
    program = _exported(module, example_inputs, dynamic_shapes)
    signature = _signature(module, program)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
        scratch = Path(folder, target.name)
        progress("compiling")
        options = _compile_options(signature)
        compile_it = torch._inductor.aoti_compile_and_package
        _compiled("compile", lambda: compile_it(program, package_path=str(scratch), inductor_configs=options))
        progress("checking that every constant can be swapped")
        _check_swappable(Package.open(scratch))
        progress("writing")
        _save(_weights(module, program, signature), target.with_suffix(".safetensors"))
        scratch.replace(target)
    return Package.open(target)


def save_weights(module: torch.nn.Module, package: Package, path: str | os.PathLike[str]) -> None:
    """Write the module's parameters and buffers that `package` takes as a safetensors file."""
    _save(_weights(module, None, package.signature), Path(path))


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(tensors, path)
    path.chmod(0o644)  # it comes as 0600, and whoever serves it may be another user


def _exported(module: torch.nn.Module, inputs: Inputs, dynamic_shapes: Any) -> ExportedProgram:
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    with torch.no_grad():
        program = _compiled("export", lambda: torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes))
    _name_lifted_tensors(program)
    return program


def _compiled(phase: str, work: Callable[[], T]) -> T:
    try:
        return work()
    except Exception as error:  # torch raises a dozen kinds; each is kept, by name and text, and as the cause
        raise ExportFailed(phase=phase, kind=type(error).__name__, detail=error) from error


def _name_lifted_tensors(program: ExportedProgram) -> None:
    """Declare tensors that forward() makes or reads as plain attributes to be buffers.

    The compiler would rename them to `_tensor_constant<n>`, and no weights file could find them again.
    """
    specs = program.graph_signature.input_specs
    for index, spec in enumerate(specs):
        if spec.kind == InputKind.CONSTANT_TENSOR:
            specs[index] = InputSpec(InputKind.BUFFER, spec.arg, spec.target, persistent=False)


def _compile_options(signature: Signature) -> dict[str, Any]:
    return {
        # Else 1-D constants of up to 8 elements are inlined and could never be swapped (graph.py can_inline_constant).
        "always_keep_tensor_constants": True,
        "aot_inductor.package_constants_in_so": False,
        # Else the compiling machine's thread count is fixed in the code.
        "cpp.dynamic_threads": True,
        "aot_inductor.metadata": {SIGNATURE_KEY: signature.model_dump_json(), WEIGHTS_KEY: WEIGHTS_APART},
    }


def _signature(module: torch.nn.Module, program: ExportedProgram) -> Signature:
    nodes = {node.name: node for node in program.graph.nodes}
    inputs = list(_input_names(program))
    if not inputs:
        raise UnsupportedModule(detail="the module takes no tensor, so there is nothing to ask it")
    dims = _DimReader(program, nodes[inputs[0]])
    constants = tuple(_constants(program, nodes))
    used = {spec.name for spec in constants}
    return Signature(
        inputs=tuple(dims.spec(name, nodes[name]) for name in inputs),
        outputs=tuple(dims.spec(name, nodes[node]) for name, node in _output_names(program)),
        constants=constants,
        unused=tuple(name for name in module.state_dict() if name not in used),
    )


def _input_names(program: ExportedProgram) -> Iterator[str]:
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            if not isinstance(spec.arg, TensorArgument):
                raise UnsupportedModule(detail=f"input {spec.arg}: only tensors can be served")
            yield spec.arg.name


def _output_names(program: ExportedProgram) -> Iterator[tuple[str, str]]:
    """(name, graph node) per output: dict keys and attribute names where there are any, else `output_<index>`."""
    specs = [spec for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    tree = program.call_spec.out_spec
    assert tree is not None
    paths = pytree.tree_flatten_with_path(pytree.tree_unflatten(specs, tree))[0]
    for index, (key_path, spec) in enumerate(paths):
        if not isinstance(spec.arg, TensorArgument):
            raise UnsupportedModule(detail=f"output {spec.arg}: only tensors can be served")
        keys = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in key_path]
        named = any(not key.isdigit() for key in keys)
        yield ".".join(keys) if named else ("output" if len(specs) == 1 else f"output_{index}"), spec.arg.name


def _constants(program: ExportedProgram, nodes: dict[str, torch.fx.Node]) -> Iterator[ConstantSpec]:
    for spec in program.graph_signature.input_specs:
        if spec.kind not in _CONSTANT_KINDS or not nodes[spec.arg.name].users:
            continue
        value = nodes[spec.arg.name].meta["val"]
        name = str(spec.target)
        yield ConstantSpec(
            name=name, dtype=_dtype_name(name, value), shape=tuple(value.shape), stride=tuple(value.stride())
        )


class _DimReader:
    """Reads shapes with symbols out of a program; the symbol that leads the first input is called `batch`."""

    def __init__(self, program: ExportedProgram, first_input: torch.fx.Node) -> None:
        self._ranges = {str(symbol): bounds for symbol, bounds in program.range_constraints.items()}
        shape = first_input.meta["val"].shape
        self._batch = str(shape[0].node.expr) if shape and not isinstance(shape[0], int) else None

    def spec(self, name: str, node: torch.fx.Node) -> TensorSpec:
        value = node.meta["val"]
        return TensorSpec(
            name=name, dtype=_dtype_name(name, value), shape=tuple(self._dim(size) for size in value.shape)
        )

    def _dim(self, size: Any) -> int | Dim:
        if isinstance(size, int):
            return size
        symbol = str(size.node.expr)
        name = "batch" if symbol == self._batch else symbol
        if symbol not in self._ranges:
            return Dim(symbol=name)
        bounds = self._ranges[symbol]
        return Dim(symbol=name, min=max(0, _whole(bounds.lower) or 0), max=_whole(bounds.upper))


def _whole(bound: Any) -> int | None:
    """A range's end as an int; None for infinity and for the compiler's stand-in for it."""
    number = int(bound) if isinstance(bound, int) or getattr(bound, "is_Integer", False) else None
    return number if number is None or number < 2**62 else None


def _dtype_name(name: str, value: torch.Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UnsupportedModule(detail=f"'{name}' is {dtype}; the dtypes that can be served are {', '.join(DTYPES)}")
    return dtype


def _check_swappable(package: Package) -> None:
    native = NativeContainer(package.extract(), 1, _first_device(package))
    try:
        updatable = {constant.fqn for constant in native.constants if not constant.folded}
    finally:
        native.delete()
    baked = [spec.name for spec in package.constants if spec.name not in updatable]
    if baked:
        raise BakedConstants(names=baked)


def _first_device(package: Package) -> str:
    return "cpu" if package.device == "cpu" else f"{package.device}:0"


def _weights(module: torch.nn.Module, program: ExportedProgram | None, signature: Signature) -> dict[str, torch.Tensor]:
    values: dict[str, Any] = dict(program.constants) if program is not None else {}
    values |= dict(module.named_buffers(remove_duplicate=False))
    values |= dict(module.named_parameters(remove_duplicate=False))
    for spec in signature.constants:
        if spec.name not in values:
            raise MissingTensor(name=spec.name)
    # Tied tensors share a storage, which safetensors refuses to write.
    return {spec.name: values[spec.name].detach().cpu().clone().contiguous() for spec in signature.constants}
