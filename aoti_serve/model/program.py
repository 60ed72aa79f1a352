"""From a module to an exported program that is ready to compile, and its signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.export.pt2_archive._package import PT2ArchiveReader, _load_exported_programs
from torch.utils import _pytree as pytree

from aoti_serve.errors import ExportFailed, UnsupportedModule
from aoti_serve.model.describe import described
from aoti_serve.model.guards import guard_indices
from aoti_serve.model.signature import Signature

T = TypeVar("T")
Inputs = tuple[Any, ...] | Mapping[str, Any]


class Program(NamedTuple):
    """An exported program with guarded indices, and what it takes, gives and keeps."""

    exported: ExportedProgram
    signature: Signature

    @property
    def values(self) -> dict[str, torch.Tensor]:
        """Every parameter, buffer and lifted tensor by FQN."""
        return dict(self.exported.constants) | dict(self.exported.state_dict)


def program_of(module: torch.nn.Module, inputs: Inputs, dynamic_shapes: Any, *, forget_mutations: bool) -> Program:
    """Export `module` as it is. Raises UnsupportedModule, or ExportFailed with what torch said."""
    if module.training:
        raise UnsupportedModule(detail="the module is in training mode; call .eval() on it first")
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    # The strides of the examples are compiled in, and requests come contiguous.
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.Tensor.contiguous, (args, kwargs))
    with torch.no_grad():
        export = torch.export.export
        exported = torch_says("export", lambda: export(module, args, kwargs, dynamic_shapes=dynamic_shapes))
    _name_lifted_tensors(exported)
    if not forget_mutations:
        _check_mutations(exported)
    guards = guard_indices(exported)
    return Program(exported, described(exported, guards))


def stored_program(path: Path, model: str) -> Program:
    """The exported program that a package made elsewhere holds beside its library (torch.export.pt2_archive)."""
    with PT2ArchiveReader(str(path)) as reader:
        exported = _load_exported_programs(reader, reader.get_file_names(), None)[model]
    return Program(exported, described(exported))


def torch_says(phase: str, work: Callable[[], T]) -> T:
    """What `work` returns; torch raises a dozen kinds of errors, and each becomes an ExportFailed that names it."""
    try:
        return work()
    except Exception as error:
        raise ExportFailed(phase=phase, kind=type(error).__name__, detail=error) from error


def _name_lifted_tensors(program: ExportedProgram) -> None:
    """Declare tensors that forward() makes or reads as plain attributes to be buffers.

    The compiler would rename them to `_tensor_constant<n>`, and no weights file could find them again.
    """
    specs = program.graph_signature.input_specs
    for index, spec in enumerate(specs):
        if spec.kind == InputKind.CONSTANT_TENSOR:
            specs[index] = InputSpec(InputKind.BUFFER, spec.arg, spec.target, persistent=False)


def _check_mutations(program: ExportedProgram) -> None:
    """Compiled code forgets what forward() writes into a buffer: every answer would be the first (upstream #165444)."""
    if not any(_writes(node) for node in program.graph.nodes):
        return
    functional = torch_says("export", lambda: program.run_decompositions({}))
    if written := sorted(set(functional.graph_signature.buffers_to_mutate.values())):
        detail = (
            f"forward() changes the buffers {written}, and compiled code forgets such changes: each call would start "
            "from the weights again. Return the new state instead, or pass forget_mutations if that is what you want"
        )
        raise UnsupportedModule(detail=detail)


def _writes(node: torch.fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
