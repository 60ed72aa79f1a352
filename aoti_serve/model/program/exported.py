"""From a module to an exported program that is ready to compile, and its signature."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.fx import Node

from aoti_serve.errors import CannotQuantize, UnsupportedModule
from aoti_serve.model.preparation.recipe import Recipe
from aoti_serve.model.program.dataflow import SHAPE_ONLY, op_name
from aoti_serve.model.program.describe import describe
from aoti_serve.model.program.dims.example import Example
from aoti_serve.model.program.dims.settled import exported_program
from aoti_serve.model.program.guards import guard_indices
from aoti_serve.model.program.layers.column_major import turn_weights
from aoti_serve.model.program.layers.convolutions import pack_convolutions
from aoti_serve.model.program.layers.int8_linears import Quantized, quantize_linears
from aoti_serve.model.program.layers.linears import pack_linears
from aoti_serve.model.program.layers.lstms import pack_lstms
from aoti_serve.model.program.torch_errors import PAGE, torch_message
from aoti_serve.model.tensor_memory import memory_key
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import CPU
from aoti_serve.signature.torch_private import changes_arguments, pytree, read_program

ExampleInputs = tuple[Any, ...] | Mapping[str, Any]
_COPIES = {"lift_fresh_copy", "detach", "detach_", "alias", "clone"}


class Program(NamedTuple):
    """An exported program with guarded indices, and what it takes, gives and keeps."""

    exported: ExportedProgram
    signature: Signature
    recipes: tuple[Recipe, ...] = ()
    plain: Mapping[str, torch.Tensor] = {}

    @property
    def values(self) -> dict[str, torch.Tensor]:
        """Every parameter, buffer and lifted tensor by FQN, in the form that weights have, whatever the code has."""
        held = dict(self.exported.constants) | dict(self.exported.state_dict)
        specs = {spec.name: spec for spec in self.signature.constants}
        sources = [recipe.source for recipe in self.recipes if recipe.source in held]
        shapes = {memory_key(held[source]): specs[source].shape for source in sources}
        plain = {name: shapes.get(memory_key(value), value.shape) for name, value in held.items()}
        return {name: value.detach().reshape(plain[name]) for name, value in held.items()} | dict(self.plain)

    def with_sources(self, constants: Collection[str]) -> set[str]:
        """Constants of the code, and those of the weights that some of them are made of."""
        made = {spec.name: recipe.source for recipe in self.recipes for spec in recipe.constants}
        return {*constants, *(made[name] for name in constants if name in made)}

    @property
    def examples(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that it was exported with, positional ones and those by name."""
        given = self.exported.example_inputs
        assert given is not None  # torch.export keeps them
        args, kwargs = given
        return args, kwargs

    @property
    def device(self) -> torch.device:
        """The device that it runs on: the card, if any of its tensors is there."""
        return _device_of(self.exported)

    def unread(self) -> set[str]:
        """Constants of which the code can only use the shape or the dtype (`type_as`, `zeros_like`, no elements)."""
        core = self.exported.run_decompositions()
        read = {node.name for node in core.graph.nodes if any(op_name(user) not in SHAPE_ONLY for user in node.users)}
        constants = [spec for spec in core.graph_signature.input_specs if spec.target is not None]
        idle = {str(spec.target) for spec in constants if spec.arg.name not in read}
        return self.with_sources(idle) | {name for name, value in self.values.items() if value.numel() == 0}


def program_of(
    module: torch.nn.Module,
    inputs: ExampleInputs,
    dynamic_shapes: Any,
    *,
    forget_mutations: bool,
    prepare: bool,
    quantize: bool,
    noted: Callable[[str], object] = lambda note: None,
) -> Program:
    """Export `module` as it is; for weights that are packed, if `prepare`, and quantised, if `quantize`.

    `noted` is told, in a sentence, what the package will not take though nobody has forbidden it.

    Raises UnsupportedModule, CannotQuantize, or ExportFailed with what torch said.
    """
    if not isinstance(module, torch.nn.Module):
        raise UnsupportedModule(detail=f"a {type(module).__name__} instead of a torch.nn.Module")
    if module.training:
        raise UnsupportedModule(detail="the module is in training mode; call .eval() on it first")
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        detail = (
            "it is TorchScript (torch.jit), which torch.export does not read. Package the nn.Module that it was made "
            f"of, with its weights: module.load_state_dict(script.state_dict()). See {PAGE}"
        )
        raise UnsupportedModule(detail=detail)
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    exported = exported_program(Example.of(module, args, kwargs, dynamic_shapes), noted)
    _own_storages(exported)
    _name_lifted_tensors(exported)
    move_scalars(exported, _device_of(exported))
    written = written_inputs(exported)
    if written.buffers and not forget_mutations:
        detail = (
            f"forward() changes the buffers {written.buffers}, but an answer may depend on inputs and weights only; "
            "return the new state instead, or pass --forget-mutations (forget_mutations=True): each call then starts "
            "from the weights again"
        )
        raise UnsupportedModule(detail=detail)
    _write_to_copies(exported, written)
    signature = describe(exported, guard_indices(exported))
    quantized = _quantized(exported, signature) if quantize else Quantized()
    recipes = quantized.recipes
    if prepare and _device_of(exported).type == CPU:
        recipes += pack_linears(exported, signature) + pack_convolutions(exported, signature)
        recipes += pack_lstms(exported, signature) + turn_weights(exported, signature)
    return Program(exported, signature, recipes, quantized.plain)


def _quantized(exported: ExportedProgram, signature: Signature) -> Quantized:
    if _device_of(exported).type != CPU:
        # Not written yet: kernels for a card, and the quantising of what is staged there.
        raise CannotQuantize(
            detail=f"it is on {_device_of(exported)}, and this is not there yet for anything but the CPU"
        )
    quantized = quantize_linears(exported, signature)
    if not quantized.recipes:
        raise CannotQuantize(
            detail="it has no linear layer that is large enough to gain by it, and reads its weight alone"
        )
    return quantized


def stored_program(path: Path, model: str) -> Program:
    """The exported program that a package made elsewhere holds beside its library (torch.export.pt2_archive)."""
    exported = read_program(path, model)
    return Program(exported, describe(exported))


def _device_of(exported: ExportedProgram) -> torch.device:
    tensors = [*exported.state_dict.values(), *pytree.tree_leaves(exported.example_inputs)]
    devices = {tensor.device for tensor in tensors if isinstance(tensor, torch.Tensor)}
    return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))


def _own_storages(program: ExportedProgram) -> None:
    """Give each constant that is a view of a larger tensor, or overlaps itself, dense memory of its own.

    The compiler would count all of that tensor as the constant's. Names of one view stay tied.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    dense: dict[object, torch.Tensor] = {}
    for spec in program.graph_signature.input_specs:
        for home in (program.state_dict, program.constants):
            value = home.get(spec.target)
            if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() != value.nbytes:
                home[spec.target] = dense.setdefault(memory_key(value), _dense(value))
                fake = nodes[spec.arg.name].meta["val"]
                nodes[spec.arg.name].meta["val"] = torch.empty_like(fake, memory_format=torch.contiguous_format)


def _dense(value: torch.Tensor) -> torch.Tensor:
    own = value.detach().clone(memory_format=torch.contiguous_format)
    return torch.nn.Parameter(own, value.requires_grad) if isinstance(value, torch.nn.Parameter) else own


def _name_lifted_tensors(program: ExportedProgram) -> None:
    """Declare tensors that forward() makes or reads as plain attributes to be buffers.

    The compiler would rename them to `_tensor_constant<n>`, and no weights file could find them again.
    """
    specs = program.graph_signature.input_specs
    for index, spec in enumerate(specs):
        if spec.kind == InputKind.CONSTANT_TENSOR:
            specs[index] = InputSpec(InputKind.BUFFER, spec.arg, spec.target, persistent=False)


def move_scalars(program: ExportedProgram, device: torch.device) -> None:
    """Put each scalar that forward() makes on the host (`x * torch.tensor(3.0)`) where it is computed with.

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
    """The node and those that only copy or rename its value."""
    found = [node]
    for each in found:
        found += [user for user in each.users if op_name(user) in _COPIES and user not in found]
    return found


def _device(node: Node) -> torch.device | None:
    return getattr(node.meta.get("val"), "device", None)


class Written(NamedTuple):
    """The buffers, by FQN, and the inputs, by placeholder, that forward() changes."""

    buffers: list[str]
    inputs: list[str]


def written_inputs(program: ExportedProgram) -> Written:
    if not any(changes_arguments(node.target) for node in program.graph.nodes):
        return Written([], [])
    signature = torch_message("export", lambda: program.run_decompositions({})).graph_signature
    buffers, inputs = signature.buffers_to_mutate.values(), signature.user_inputs_to_mutate.values()
    return Written(sorted(set(buffers)), sorted(set(inputs)))


def _write_to_copies(program: ExportedProgram, written: Written) -> None:
    """Let forward() write to copies, not to the weights that answer (upstream #165444) or to the caller's tensors."""
    specs = program.graph_signature.input_specs
    nodes = {node.name: node for node in program.graph.nodes}
    with program.graph.inserting_after(nodes[specs[-1].arg.name]):
        for spec in specs:
            if spec.target in written.buffers or spec.arg.name in written.inputs:
                node = nodes[spec.arg.name]
                copy = program.graph.call_function(torch.ops.aten.clone.default, (node,))
                node.replace_all_uses_with(copy, delete_user_cb=lambda user, copy=copy: user is not copy)
                copy.meta["val"] = node.meta["val"].clone()
    program.graph_module.recompile()
