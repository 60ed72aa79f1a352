"""The dataflow of an exported program: what each tensor depends on, and what it is a view of."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

from aoti_serve.signature.torch_private import (
    detect_fake_mode,
    is_higher_order,
    operator_name,
    operator_schema,
    pytree,
)

SHAPE_ONLY = {"sym_size", "sym_numel", "sym_stride", "zeros_like", "ones_like", "full_like", "empty_like"}
SHAPE_ONLY |= {"new_zeros", "new_ones", "new_full", "new_empty"}


class Flow:
    """The sources of each tensor, and how often it was written to, kept by the tensor that it is a view of."""

    def __init__(self, program: ExportedProgram) -> None:
        specs = program.graph_signature.input_specs
        # Weights too may come with indices in them: a table of neighbours, a permutation.
        self._given = [spec.arg.name for spec in specs]
        self._names = {spec.arg.name: spec.target for spec in specs if spec.target is not None}
        self._roots: dict[Node, Node] = {}
        self._inputs: dict[Node, set[str]] = {}
        self._writes: Counter[Node] = Counter()

    def inputs(self, node: Node) -> tuple[str, ...]:
        """The user inputs, by placeholder, and the constants, by FQN, that the tensor's values come from."""
        reached = self._inputs[self._roots[node]]
        return tuple(str(self._names.get(name, name)) for name in self._given if name in reached)

    def writes(self, node: Node) -> int:
        return self._writes[self._roots[node]]

    def name(self, node: Node) -> str:
        """The FQN of the constant that the tensor is (a view of), else the node's name."""
        return str(self._names.get(self._roots.get(node, node).name, node.name))

    def bind(self, inner: Node, outer: Node) -> None:
        """`inner` is what `outer` is called in a graph within the graph."""
        self._roots[inner] = self._roots[outer]

    def step(self, node: Node) -> None:
        """Add one more node; nodes come in the graph's order."""
        if node in self._roots:
            return
        inputs = {node.name} & set(self._given) if node.op == "placeholder" else set()
        if op_name(node) not in SHAPE_ONLY:
            inputs.update(*(self._inputs[self._roots[source]] for source in node.all_input_nodes))
        viewed, written = _aliased(node)
        self._roots[node] = self._roots[viewed[0]] if viewed else node
        self._writes.update(self._roots[target] for target in written)
        for target in (node, *written):
            self._inputs.setdefault(self._roots[target], set()).update(inputs)


def op_name(node: Node) -> str:
    """The operator's name, the same for all overloads and for the in-place variant; empty for what is not torch's."""
    name = operator_name(node.target)
    if is_higher_order(node.target):
        return name
    space, _, name = name.partition("::")
    return name.partition(".")[0].removesuffix("_") if space == "aten" else ""


def argument_index(node: Node, name: str) -> int:
    """The place of the operator's argument of this name, counted from 0."""
    return [argument.name for argument in operator_schema(node.target).arguments].index(name)


def argument_named(node: Node, name: str) -> Any:
    """The argument of this name, however it was passed; its default if it was not."""
    place = argument_index(node, name)
    default = operator_schema(node.target).arguments[place].default_value
    return node.args[place] if place < len(node.args) else node.kwargs.get(name, default)


def inserted(before: Node, target: Any, *args: Any) -> Node:
    """Insert a call into the graph of a node, before it, with an example value and the node's origin."""
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, args)
    with fake_mode_of(before):
        node.meta["val"] = target(*map_arg(args, lambda arg: arg.meta["val"]))
    node.meta |= {key: before.meta[key] for key in ("nn_module_stack", "stack_trace") if key in before.meta}
    return node


def fake_mode_of(node: Node) -> AbstractContextManager[Any]:
    """The mode in which the example values around a node are computed."""
    return detect_fake_mode([each.meta.get("val") for each in (node, *node.all_input_nodes)]) or nullcontext()


def _aliased(node: Node) -> tuple[list[Node], list[Node]]:
    """The arguments that the node's value may be a view of, and those that it writes to."""
    if node.target is operator.getitem:
        return node.all_input_nodes, []
    if (schema := operator_schema(node.target)) is None:
        return [], []
    shared = [argument for argument in schema.arguments if argument.alias_info]
    written = _nodes(argument_named(node, argument.name) for argument in shared if argument.alias_info.is_write)
    views = any(value.alias_info for value in schema.returns)
    return _nodes(argument_named(node, argument.name) for argument in shared) if views else [], written


def _nodes(values: Iterable[Any]) -> list[Node]:
    return [leaf for leaf in pytree.tree_leaves(list(values)) if isinstance(leaf, Node)]
