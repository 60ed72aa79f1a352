"""What is the same for every layer whose weight is packed: who reads the weight, and what oneDNN computes with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from aoti_serve.model.program.dataflow import argument_named, op_name
from aoti_serve.model.tensor_memory import memory_key
from aoti_serve.signature.torch_private import changes_arguments

_ACTIVATIONS = {"relu": "relu", "silu": "swish", "tanh": "tanh", "sigmoid": "sigmoid", "gelu": "gelu"}


class Layer(NamedTuple):
    """A call of torch's layer, and what oneDNN computes with it: an activation of its result, or a sum with another."""

    node: Node
    last: Node
    activation: str = "none"
    algorithm: str = ""
    addend: Node | None = None


def weights_of(
    program: ExportedProgram, values: Mapping[str, torch.Tensor], operators: Collection[str]
) -> Iterator[tuple[list[str], list[Node]]]:
    """Constants that only these layers read, as their weight: the names of each, and the calls."""
    nodes = {node.name: node for node in program.graph.nodes}
    groups: dict[object, list[str]] = {}
    placeholders = {}
    for spec in program.graph_signature.input_specs:
        if spec.target in values and nodes[spec.arg.name].users:
            placeholders[str(spec.target)] = nodes[spec.arg.name]
            groups.setdefault(memory_key(values[str(spec.target)]), []).append(str(spec.target))
    for names in groups.values():
        calls = [user for name in names for user in placeholders[name].users]
        if all(op_name(call) in operators for call in calls) and not any(
            placeholders[name] in (argument_named(call, "input"), argument_named(call, "bias"))
            for name in names
            for call in calls
        ):
            yield names, list(dict.fromkeys(calls))


def is_of_one_dtype(call: Node, weight: torch.Tensor) -> bool:
    """Whether input, weight and bias are of one dtype, and of one that is packed."""
    taken, bias = argument_named(call, "input").meta["val"], argument_named(call, "bias")
    dtypes = {weight.dtype, taken.dtype, *([bias.meta["val"].dtype] if bias is not None else [])}
    return dtypes in ({torch.float32}, {torch.bfloat16})


def only_user(node: Node) -> Node | None:
    """The one operator that uses the node's result, if the node can as well be computed where that stands."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    return user if _nothing_written_between(node, user) else None


def with_activation(node: Node) -> Layer:
    """The layer with the activation that alone uses its result, if there is one."""
    user = only_user(node)
    if user is None or op_name(user) not in _ACTIVATIONS:
        return Layer(node, node)
    algorithm = argument_named(user, "approximate") if op_name(user) == "gelu" else ""
    return Layer(node, user, _ACTIVATIONS[op_name(user)], algorithm)


def _nothing_written_between(first: Node, last: Node) -> bool:
    node = first.next
    while node is not last:
        if changes_arguments(node.target):
            return False
        node = node.next
    return True
