"""Scalars that forward() makes on the host (`x * torch.tensor(3.0)`), for a model on a card."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from aoti_serve.model.program.dataflow import op_name

COPIES = {"lift_fresh_copy", "detach", "detach_", "alias", "clone"}


def move_scalars(program: ExportedProgram, device: torch.device) -> None:
    """Put each of them where it is computed with.

    torch lets one on the host meet tensors on a card, and the compiler would inline it. But a constant that can be
    swapped is not inlined, and a kernel that is given the host's memory cannot read it: "Pointer argument cannot be
    accessed from Triton" (torch 2.11 on an H100).
    """
    if device.type == "cpu":
        return
    nodes = {node.name: node for node in program.graph.nodes}
    for spec in program.graph_signature.input_specs:
        value = program.constants.get(str(spec.target))
        if not isinstance(value, torch.Tensor) or value.ndim or value.device == device:
            continue
        copies = _copies(nodes[spec.arg.name])
        users = {user for node in copies for user in node.users} - set(copies)
        if users and all(_device(user) == device for user in users):
            program.constants[str(spec.target)] = value.to(device)
            for node in copies:
                node.meta["val"] = node.meta["val"].to(device)


def _copies(node: Node) -> list[Node]:
    """The node and what is merely another name of its value."""
    found = [node]
    for each in found:
        found += [user for user in each.users if op_name(user) in COPIES and user not in found]
    return found


def _device(node: Node) -> torch.device | None:
    return getattr(node.meta.get("val"), "device", None)
