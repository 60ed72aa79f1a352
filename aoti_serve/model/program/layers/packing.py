"""What is the same for every layer whose weight is prepared: who reads it, and what oneDNN computes with the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from aoti_serve.model.program.dataflow import argument_named, op_name
from aoti_serve.model.tensor_memory import memory_key
from aoti_serve.signature.torch_private import changes_arguments

_ACTIVATIONS = {"relu": "relu", "silu": "swish", "tanh": "tanh", "sigmoid": "sigmoid", "gelu": "gelu"}


class Layer(NamedTuple):
    """A call of torch's layer, and the activation of its result that oneDNN computes with it."""

    node: Node
    last: Node
    activation: str = "none"
    algorithm: str = ""


def weights_of(
    program: ExportedProgram, values: Mapping[str, torch.Tensor], reads: Callable[[Node, Node], bool]
) -> Iterator[tuple[list[str], list[Node]]]:
    """Constants of which every reader `reads(call, constant)` as its weight: the names of each, and the calls."""
    nodes = {node.name: node for node in program.graph.nodes}
    groups: dict[object, list[str]] = {}
    placeholders = {}
    for spec in program.graph_signature.input_specs:
        if spec.target in values and nodes[spec.arg.name].users:
            placeholders[str(spec.target)] = nodes[spec.arg.name]
            groups.setdefault(memory_key(values[str(spec.target)]), []).append(str(spec.target))
    for names in groups.values():
        constants = [placeholders[name] for name in names]
        calls = list(dict.fromkeys(user for constant in constants for user in constant.users))
        if all(reads(call, constant) for constant in constants for call in constant.users):
            yield names, calls


def weight_of(*operators: str) -> Callable[[Node, Node], bool]:
    """Whether a call is of one of these layers, and a constant is its weight and nothing else of it."""

    def reads(call: Node, constant: Node) -> bool:
        if op_name(call) not in operators:
            return False
        return constant not in (argument_named(call, "input"), argument_named(call, "bias"))

    return reads


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


def change_constant(
    program: ExportedProgram, names: Sequence[str], change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Give the program another form of the constant that has these names; all names of it go on being one tensor."""
    homes = (program.state_dict, program.constants)
    before = next(home[names[0]] for home in homes if names[0] in home)
    made, key = change(before.detach()), memory_key(before)
    for home in homes:
        for name in [name for name, value in home.items() if memory_key(value) == key]:
            was = home[name]
            home[name] = torch.nn.Parameter(made, was.requires_grad) if isinstance(was, torch.nn.Parameter) else made
    placeholders = {spec.arg.name for spec in program.graph_signature.input_specs if spec.target in names}
    for node in program.graph.nodes:
        if node.name in placeholders:
            node.meta["val"] = change(node.meta["val"])
    return made
