"""Index guards: a bad index in a request becomes a flag, not the end of the process.

Compiled code checks an index inside an OpenMP region, where the throw aborts the process, or on the card, where the
assert ends its context; it does not check an index taken through `.item()`. So each index that a request can choose is
clamped before its use, and one more output tells which were out of range.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, OutputSpec, TensorArgument
from torch.fx import Graph, GraphModule, Node

from aoti_serve.model.program.dataflow import Flow, argument_index, argument_named, inserted, op_name
from aoti_serve.signature.signature import IndexGuard
from aoti_serve.signature.torch_private import pytree

aten = torch.ops.aten


class _Rule(NamedTuple):
    """An operator's arguments by name: the table, the index, the dimension (None: the table is flat)."""

    table: str
    by: str
    dim: str | int | None
    wraps: bool = False


_EMBEDDING = _Rule("weight", "indices", 0)
_ALONG = _Rule("self", "index", "dim")
_FLAT = _Rule("self", "index", None, wraps=True)
_ALONG_OPS = {"gather", "scatter", "scatter_add", "scatter_reduce"}
_ALONG_OPS |= {"index_select", "index_add", "index_copy", "index_reduce"}
_RULES = {
    "embedding_renorm": _Rule("self", "indices", 0),
    "take_along_dim": _Rule("self", "indices", "dim"),
    "index_fill": _ALONG._replace(wraps=True),
    **dict.fromkeys(_ALONG_OPS, _ALONG),
    **dict.fromkeys(("embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"), _EMBEDDING),
    **dict.fromkeys(("take", "put"), _FLAT),
}
_LISTS = {"index", "_unsafe_index", "index_put", "_unsafe_index_put", "_index_put_impl"}
_NUMBERS = {"item", "_local_scalar_dense"}
_MASKS = (torch.bool, torch.uint8)
_INLINED = {"wrap_with_autocast", "wrap_with_set_grad_enabled"}


def guard_indices(program: ExportedProgram) -> tuple[IndexGuard, ...]:
    """Clamp every index that depends on a user input, in place, and append an output that says which were out of range.

    The program then returns `(what it returned, flags)`: a bool vector with an element per guard returned here. When a
    flag is set the rest of the output means nothing. A program without such indices is left as it is. Not guarded:
    indices in the branches of control flow (torch.cond and the like), in custom operators, and in losses; numbers taken
    by `.item()` unless they index directly; indices into an empty dimension, which no clamping can make right.
    """
    guarder = _Guarder(program.graph_module, Flow(program))
    guarder.run()
    if guarder.guards:
        _append_output(program, guarder.stack())
        program.graph_module.recompile()
        program.validate()  # type: ignore[no-untyped-call]
    return tuple(guarder.guards)


def _append_output(program: ExportedProgram, flags: Node) -> None:
    _add_outputs(program.graph, [flags])
    program.graph_signature.output_specs.append(OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(flags.name), None))
    signature = program.module_call_graph[0].signature
    assert signature is not None  # torch.export always describes the root
    signature.outputs.append(TensorArgument(flags.name))
    signature.out_spec = pytree.treespec_tuple([signature.out_spec, pytree.treespec_leaf()])


class _Guarder:
    """Guards the indices of one graph, and of the graphs within that always run."""

    def __init__(self, module: GraphModule, flow: Flow) -> None:
        self.guards: list[IndexGuard] = []
        self.flags: list[Node] = []
        self._module, self._flow = module, flow
        self._clamps: dict[Any, Node] = {}
        self._sizes: dict[str, Node] = {}

    def run(self) -> None:
        for node in list(self._module.graph.nodes):
            self._guard(node)
            self._flow.step(node)

    def stack(self) -> Node:
        return self._emit(self._module.graph.output_node(), aten.stack.default, self.flags)

    def _guard(self, node: Node) -> None:
        name = op_name(node)
        if name in _LISTS:
            self._guard_list(node)
        elif name in _RULES:
            self._guard_one(node, _RULES[name])
        elif name == "one_hot" and argument_named(node, "num_classes") > 0:
            self._replace(node, "self", node, argument_named(node, "num_classes"), False)
        elif name in _NUMBERS:
            self._guard_number(node)
        elif name in _INLINED:
            self._guard_inlined(node)

    def _guard_one(self, node: Node, rule: _Rule) -> None:
        table = argument_named(node, rule.table)
        dim = argument_named(node, rule.dim) if isinstance(rule.dim, str) else rule.dim
        self._replace(node, rule.by, table, self._size(node, table, dim), rule.wraps)

    def _guard_list(self, node: Node) -> None:
        table, dim = argument_named(node, "self"), 0
        indices = list(argument_named(node, "indices"))
        for place, index in enumerate(indices):
            if index is not None and index.meta["val"].dtype in _MASKS:
                dim += index.meta["val"].dim()
                continue
            if index is not None:
                indices[place] = self._clamped(node, index, table, self._size(node, table, dim), True)
            dim += 1
        _set(node, "indices", indices)

    def _guard_number(self, node: Node) -> None:
        # The number cannot be clamped without a new symbol, so the tensor is, before it is read.
        for user in [user for user in node.users if op_name(user) == "select"]:
            table, dim = argument_named(user, "self"), argument_named(user, "dim")
            if argument_named(user, "index") is node and table < node:
                self._replace(node, "self", table, self._size(node, table, dim), True)

    def _guard_inlined(self, node: Node) -> None:
        body, *arguments = [argument for argument in node.args if isinstance(argument, Node)]
        module = getattr(self._module, str(body.target))
        inner = _Guarder(module, self._flow)
        for parameter, argument in zip(module.graph.find_nodes(op="placeholder"), arguments, strict=True):
            self._flow.bind(parameter, argument)
        inner.run()
        self._flow.step(node)
        self._lift(node, module, inner)

    def _lift(self, node: Node, module: GraphModule, inner: _Guarder) -> None:
        first = _add_outputs(module.graph, inner.flags)
        node.meta["val"] = (*node.meta["val"], *(flag.meta["val"] for flag in inner.flags))
        module.recompile()
        after = node.next
        self.flags += [self._emit(after, operator.getitem, node, first + i) for i in range(len(inner.flags))]
        self.guards += inner.guards

    def _replace(self, node: Node, argument: str, table: Node, size: int | Node, wraps: bool) -> None:
        _set(node, argument, self._clamped(node, argument_named(node, argument), table, size, wraps))

    def _clamped(self, use: Node, index: Node, table: Node, size: int | Node, wraps: bool) -> Node:
        inputs = self._flow.inputs(index)
        # A write to the index between two uses makes them two indices.
        key = (index, self._flow.writes(index), size, wraps)
        if inputs and key not in self._clamps:
            low, high = self._bounds(use, size, wraps, torch.iinfo(index.meta["val"].dtype))
            self._clamps[key] = self._emit(use, aten.clamp.default, index, low, high)
            self._flag(use, index, low, high)
            bounds = [bound if isinstance(bound, int) else None for bound in (low, high)]
            name = self._flow.name(table)
            self.guards.append(IndexGuard(inputs=inputs, table=name, low=bounds[0], high=bounds[1]))
        return self._clamps[key] if inputs else index

    def _flag(self, use: Node, index: Node, low: int | Node, high: int | Node) -> None:
        below = self._emit(use, aten.lt.Scalar, index, low)
        above = self._emit(use, aten.gt.Scalar, index, high)
        outside = self._emit(use, aten.logical_or.default, below, above)
        self.flags.append(self._emit(use, aten.any.default, outside))

    def _bounds(self, use: Node, size: int | Node, wraps: bool, limits: torch.iinfo) -> tuple[int | Node, int | Node]:
        if isinstance(size, int):
            return max(-size, limits.min) if wraps else 0, min(size - 1, limits.max)
        return self._emit(use, operator.neg, size) if wraps else 0, self._emit(use, operator.sub, size, 1)

    def _size(self, use: Node, table: Node, dim: int | None) -> int | Node:
        value = table.meta["val"]
        size = value.numel() if dim is None else value.shape[dim] if value.dim() else 1
        if isinstance(size, int):
            return size
        read = (aten.sym_numel.default, table) if dim is None else (aten.sym_size.int, table, dim)
        expression = str(size.node.expr)
        if expression not in self._sizes:
            self._sizes[expression] = self._emit(use, *read)
        return self._sizes[expression]

    def _emit(self, use: Node, target: Any, *args: Any) -> Node:
        node = inserted(use, target, *args)
        self._flow.step(node)
        return node


def _set(node: Node, name: str, value: Any) -> None:
    place = argument_index(node, name)
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.update_kwarg(name, value)


def _add_outputs(graph: Graph, nodes: list[Node]) -> int:
    """Append to what the graph returns; gives how much it returned before."""
    output = graph.output_node()
    before: Any = output.args[0]
    output.args = ((*before, *nodes),)
    return len(before)
