"""The signature of an exported program: its constants, and the names, dtypes and ranges of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from aoti_serve.errors import UnsupportedModule
from aoti_serve.model.program.dataflow import argument_named, op_name
from aoti_serve.model.program.dims.symbols import Linear, dim_names, range_of, size_of
from aoti_serve.signature.call_spec import CALL, RESULT, CallSpec, KeyPath, key_name, key_paths, output_name
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.signature import IndexGuard, Signature
from aoti_serve.signature.tensors import DTYPES, Dim, TensorSpec

_CONSTANT_KINDS = {InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR}


def describe(program: ExportedProgram, guards: Sequence[IndexGuard] = ()) -> Signature:
    """Describe a program. The inputs of `guards` are names of graph nodes, as `guard_indices` gives them.

    Raises UnsupportedModule if it cannot be served: no tensor at all, arguments that are numbers, exotic dtypes.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    given = _output_arguments(program)[: -1 if guards else None]
    takes, gives = _takes(program, _input_arguments(program)), _gives(program, given, bool(guards))
    inputs = input_names(program)
    dims = _DimReader(program, [nodes[node] for node in inputs])
    outputs = [(name, arg.name) for arg, name in zip(given, gives.leaves, strict=True) if name]
    constants = tuple(_constants(program, nodes))
    used = {spec.name for spec in constants}
    return Signature(
        inputs=tuple(_input_spec(dims, name, nodes[node]) for node, name in inputs.items()),
        outputs=tuple(dims.spec(name, nodes[node]) for name, node in outputs),
        takes=takes,
        gives=gives,
        guards=tuple(
            guard.model_copy(update={"inputs": tuple(inputs.get(name, name) for name in guard.inputs)})
            for guard in guards
        ),
        constants=constants,
        unused=tuple(name for name in program.state_dict if name not in used),
    )


def input_names(program: ExportedProgram) -> dict[str, str]:
    """The names of the inputs, by placeholder. Raises UnsupportedModule as `describe` does."""
    taken = _input_arguments(program)
    inputs = {arg.name: name for arg, name in zip(taken, _takes(program, taken).leaves, strict=True) if name}
    if not inputs:
        raise UnsupportedModule(detail="the module takes no tensor, so there is nothing to ask it")
    return inputs


def _input_arguments(program: ExportedProgram) -> list[Any]:
    return [spec.arg for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]


def _output_arguments(program: ExportedProgram) -> list[Any]:
    return [spec.arg for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]


def _takes(program: ExportedProgram, arguments: list[Any]) -> CallSpec:
    for arg in arguments:
        if not isinstance(arg, TensorArgument) and not (isinstance(arg, ConstantArgument) and arg.value is None):
            raise UnsupportedModule(detail=f"input {arg}: only tensors can be served")
    spec = program.call_spec.in_spec
    placed = zip(key_paths(spec), arguments, strict=True)
    names = [_input_name(path, arg) if isinstance(arg, TensorArgument) else None for path, arg in placed]
    _check_distinct("inputs", names)
    return CallSpec.of(spec, names, CALL)


def _gives(program: ExportedProgram, arguments: list[Any], guarded: bool) -> CallSpec:
    spec = program.call_spec.out_spec
    assert spec is not None
    spec = spec.child(0) if guarded else spec  # the other child is the guards' flags
    names: list[str | None] = []
    fixed: dict[int, bool | int] = {}
    for index, (path, arg) in enumerate(zip(key_paths(spec), arguments, strict=True)):
        if isinstance(arg, TensorArgument):
            names.append(output_name(path, "output" if len(arguments) == 1 else f"output_{index}"))
            continue
        names.append(None)
        if not isinstance(arg, ConstantArgument) or isinstance(arg.value, float | str):  # those do not compile
            raise UnsupportedModule(detail=f"output {arg}: only tensors can be served")
        if arg.value is not None:
            fixed[index] = arg.value
    _check_distinct("outputs", names)
    return CallSpec.of(spec, names, RESULT, fixed)


def _check_distinct(kind: str, leaves: list[str | None]) -> None:
    names = [name for name in leaves if name is not None]
    if len(set(names)) < len(names):
        raise UnsupportedModule(detail=f"two {kind} would have one name: {names}")


def _input_name(path: KeyPath, arg: Any) -> str:
    """`user.age` for the placeholder `user_age` at ARGS[0]['age']: the argument's own name is only in there."""
    keys = [key_name(key) for key in path[2:]]
    tail = "".join(f"_{key}" for key in keys)
    if not keys or not arg.name.endswith(tail):
        return str(arg.name)
    return ".".join([arg.name.removesuffix(tail), *keys])


def _input_spec(dims: _DimReader, name: str, node: torch.fx.Node) -> TensorSpec:
    spec = dims.spec(name, node)
    for axis, dim in enumerate(spec.shape):
        if isinstance(dim, Dim) and not dim.symbol.isidentifier():  # nobody could check it
            detail = (
                f"input '{name}': its dimension {axis} is {dim.symbol}, made of several others; in dynamic_shapes it "
                "must be a Dim, or a multiple of one and a number more"
            )
            raise UnsupportedModule(detail=detail)
    return spec.model_copy(update={"order": _order(node)})


def _order(node: torch.fx.Node) -> tuple[int, ...] | None:
    strides = [stride if isinstance(stride, int) else stride.node.hint for stride in node.meta["val"].stride()]
    order = sorted(range(len(strides)), key=lambda axis: -strides[axis])
    return tuple(order) if order != sorted(order) else None


def _constants(program: ExportedProgram, nodes: dict[str, torch.fx.Node]) -> Iterator[ConstantSpec]:
    on_card = any(node.meta["val"].device.type != "cpu" for node in nodes.values() if _is_tensor(node))
    for spec in program.graph_signature.input_specs:
        if spec.kind not in _CONSTANT_KINDS or not nodes[spec.arg.name].users:
            continue
        value, name = nodes[spec.arg.name].meta["val"], str(spec.target)
        yield ConstantSpec(
            name=name,
            dtype=_dtype_name(name, value),
            shape=tuple(value.shape),
            stride=tuple(value.stride()),
            carried=name not in program.state_dict or spec.persistent is False,
            host=on_card and value.device.type == "cpu",
            finite=_is_finite(program, name),
        )


def _is_finite(program: ExportedProgram, name: str) -> bool:
    """Whether a constant is known to hold no infinity."""
    value = program.state_dict.get(name, program.constants.get(name))
    if not isinstance(value, torch.Tensor) or value.is_meta or not value.is_floating_point():
        return False
    return not torch.isinf(value if value.element_size() > 1 else value.float()).any()  # float8 knows no isinf


def _is_tensor(node: torch.fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


class _DimReader:
    """Reads shapes with symbols out of a program.

    The symbol that leads the first input is called `batch`, others as the `torch.export.Dim` that they come from. One
    that has no name is called by its place: `image_2` is dimension 2 of the input `image`.
    """

    def __init__(self, program: ExportedProgram, inputs: Iterable[torch.fx.Node]) -> None:
        self._program = program
        self._names: dict[str, str] = {}
        self._never_zero = set(_sizes_of_lstms(program))
        given = dim_names(program)
        for place, node in enumerate(inputs):
            for axis, size in enumerate(map(size_of, node.meta["val"].shape)):
                if isinstance(size, Linear):
                    leads = place == axis == 0 and (size.factor, size.offset) == (1, 0)
                    self._name(size.symbol, "batch" if leads else given.get(size.symbol), node, axis)

    def _name(self, symbol: str, name: str | None, node: torch.fx.Node, axis: int) -> None:
        if name is None or (name == "batch" and name in self._names.values()):
            name = f"{node.name}_{axis}"
        self._names.setdefault(symbol, name)

    def spec(self, name: str, node: torch.fx.Node) -> TensorSpec:
        value = node.meta["val"]
        return TensorSpec(
            name=name, dtype=_dtype_name(name, value), shape=tuple(self._dim(size) for size in value.shape)
        )

    def _dim(self, size: Any) -> int | Dim:
        found = size_of(size)
        if isinstance(found, int):
            return found
        # An expression will do for an output; `_input_spec` refuses it.
        return Dim(symbol=f"({size.node.expr})") if found is None else self._linear(*found)

    def _linear(self, symbol: str, factor: int, offset: int) -> Dim:
        low, high = range_of(self._program, symbol)
        low = max(int(symbol in self._never_zero), low)
        return Dim(
            symbol=self._names.get(symbol, symbol),
            min=max(0, factor * low + offset),
            max=None if high is None else factor * high + offset,
            factor=factor,
            offset=offset,
        )


def _sizes_of_lstms(program: ExportedProgram) -> Iterator[str]:
    """The symbols of what LSTMs take: an empty input ends the process, as oneDNN's operator divides by its size."""
    for node in program.graph.nodes:
        if op_name(node) == "lstm":
            for size in argument_named(node, "input").meta["val"].shape:
                yield from () if isinstance(size, int) else map(str, size.node.expr.free_symbols)


def _dtype_name(name: str, value: torch.Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UnsupportedModule(detail=f"'{name}' is {dtype}; the dtypes that can be served are {', '.join(DTYPES)}")
    return dtype
