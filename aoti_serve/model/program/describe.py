"""The signature of an exported program: its constants, and the names, dtypes and ranges of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from aoti_serve.errors import UnsupportedModule
from aoti_serve.model.program.dataflow import argument_named, op_name
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
    taken, given = _input_arguments(program), _output_arguments(program)[: -1 if guards else None]
    takes, gives = _takes(program, taken), _gives(program, given, bool(guards))
    inputs = {arg.name: name for arg, name in zip(taken, takes.leaves, strict=True) if name}
    if not inputs:
        raise UnsupportedModule(detail="the module takes no tensor, so there is nothing to ask it")
    dims = _DimReader(program, nodes[next(iter(inputs))])
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
    for dim in spec.shape:
        if isinstance(dim, Dim) and not dim.symbol.isidentifier():  # nobody could check it
            raise UnsupportedModule(detail=f"input '{name}': its dimension {dim.symbol} is no multiple of a symbol")
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

    The symbol that leads the first input is called `batch`, others as the `torch.export.Dim` that they come from.
    """

    def __init__(self, program: ExportedProgram, first_input: torch.fx.Node) -> None:
        self._ranges = {str(symbol): bounds for symbol, bounds in program.range_constraints.items()}
        shape = first_input.meta["val"].shape
        self._batch = str(shape[0].node.expr) if shape and not isinstance(shape[0], int) else None
        self._names = _dim_names(node.meta.get("val") for node in program.graph.nodes)
        self._never_zero = set(_sizes_of_lstms(program))

    def spec(self, name: str, node: torch.fx.Node) -> TensorSpec:
        value = node.meta["val"]
        return TensorSpec(
            name=name, dtype=_dtype_name(name, value), shape=tuple(self._dim(size) for size in value.shape)
        )

    def _dim(self, size: Any) -> int | Dim:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        symbols = list(expression.free_symbols)
        factor: Any = expression.coeff(symbols[0]) if len(symbols) == 1 else 0
        offset: Any = expression - factor * symbols[0] if factor else 0
        if not (factor and factor.is_Integer and factor > 0 and offset.is_Integer):
            return Dim(symbol=f"({expression})")  # will do for an output; `_input_spec` refuses it
        return self._linear(str(symbols[0]), int(factor), int(offset))

    def _linear(self, symbol: str, factor: int, offset: int) -> Dim:
        bounds = self._ranges.get(symbol)
        low = max(int(symbol in self._never_zero), (_whole(bounds.lower) or 0) if bounds else 0)
        high = _whole(bounds.upper) if bounds else None
        return Dim(
            symbol="batch" if symbol == self._batch else self._names.get(symbol, symbol),
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


def _dim_names(values: Iterable[Any]) -> dict[str, str]:
    """The names of the exported Dims, by symbol. torch keeps them beside the places that the symbols come from."""
    tensors = (value for value in values if isinstance(value, torch.Tensor))
    sizes: Iterator[Any] = (size for tensor in tensors for size in tensor.shape)
    found = next((size.node.shape_env for size in sizes if not isinstance(size, int)), None)
    if found is None:
        return {}
    given = found.source_name_to_debug_name
    places = ((str(symbol), source) for symbol, sources in found.var_to_sources.items() for source in sources)
    names = {symbol: given.get(source.name, "") for symbol, source in places}
    return {symbol: name for symbol, name in names.items() if name.isidentifier() and name != "batch"}


def _whole(bound: Any) -> int | None:
    """A range's end as an int; None for infinity and for the compiler's stand-in for it."""
    number = int(bound) if isinstance(bound, int) or getattr(bound, "is_Integer", False) else None
    return number if number is None or number < 2**62 else None


def _dtype_name(name: str, value: torch.Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UnsupportedModule(detail=f"'{name}' is {dtype}; the dtypes that can be served are {', '.join(DTYPES)}")
    return dtype
