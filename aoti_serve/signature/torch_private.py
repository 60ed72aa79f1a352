"""All uses of torch's private parts, but for the native runtime (model/aoti). Read in torch 2.13; a test fails when one
of them changes.

Functions import the parts that only an export needs: a replica does not wait for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._guards import detect_fake_mode  # the mode that a program's example values belong to
from torch._ops import HigherOrderOperator, OpOverload  # what a graph's nodes call
from torch.utils import _pytree as pytree  # nested arguments, and the TreeSpecs that packages hold
from torch.utils._python_dispatch import is_traceable_wrapper_subclass  # a tensor that is made of others

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

__all__ = ["detect_fake_mode", "is_traceable_wrapper_subclass", "pytree"]


def operator_name(target: object) -> str:
    """A graph target's full name, "aten::add.Tensor" or "cond" for example; empty if it is no operator."""
    return str(getattr(target, "_name", ""))


def is_higher_order(target: object) -> bool:
    """True for an operator over graphs, such as `cond`."""
    return isinstance(target, HigherOrderOperator)


def operator_schema(target: object) -> Any:
    """A graph target's arguments and results, with their aliases; None if it is no operator."""
    return getattr(target, "_schema", None)


def changes_arguments(target: object) -> bool:
    return isinstance(target, OpOverload) and bool(target._schema.is_mutable)


def ordered_kwargs(kwargs: Mapping[str, Any], spec: Any) -> dict[str, Any]:
    """Keyword arguments in the order of the TreeSpec of a call."""
    from torch.export._tree_utils import reorder_kwargs

    return dict(reorder_kwargs(dict(kwargs), spec))


def compile_files(module: GraphModule, example: tuple[Any, Any], options: Mapping[str, Any]) -> list[str]:
    """Compile an exported module with `aot_inductor.package`; returns the files that were written."""
    import torch._inductor

    with warnings.catch_warnings():
        # torch warns of its own TreeSpecs when it copies the graph that holds them.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        compiled = torch._inductor.aot_compile(module, *example, options=dict(options))
    assert isinstance(compiled, list)
    return [file for file in compiled if isinstance(file, str)]


def write_archive(path: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Pack the compiled files of models, by model name, into a `.pt2` archive."""
    from torch.export.pt2_archive._package import package_pt2

    package_pt2(path, aoti_files={model: [*names] for model, names in files.items()})


def read_program(path: Path, model: str) -> ExportedProgram:
    """The exported program that an archive holds under a model's name."""
    from torch.export.pt2_archive._package import PT2ArchiveReader, _load_exported_programs

    with PT2ArchiveReader(str(path)) as reader:
        program: ExportedProgram = _load_exported_programs(reader, [f"models/{model}.json"], None)[model]
    return program


def onednn_linear() -> Any:
    """oneDNN's linear layer with an activation: input, weight, bias, activation, its numbers, its algorithm."""
    return torch.ops.mkldnn._linear_pointwise.default


def onednn_convolution() -> Any:
    """oneDNN's convolution with an activation: input, weight, bias, padding, stride, dilation, groups, activation, its
    numbers, its algorithm. Of four dimensions, and its result is in the order of channels last."""
    return torch.ops.mkldnn._convolution_pointwise.default


def onednn_lstm() -> Any:
    """oneDNN's LSTM: input `[steps, batch, columns]`, two weights, two biases, state and cells `[1, batch, hidden]`,
    whether backwards, sizes of batches, the kind of cell, the hidden size, layers, whether it has biases, goes both
    ways, has the batch first, and trains. It gives the steps, the last state, the last cells, and a work space."""
    return torch.ops.aten.mkldnn_rnn_layer.default


def example_sizes(shape: Sequence[Any]) -> tuple[int, ...] | None:
    """A shape as it was in the example that was exported, also where it may vary; None if that is not known."""
    sizes = [size.node.hint if isinstance(size, torch.SymInt) else size for size in shape]
    return tuple(int(size) for size in sizes) if None not in sizes else None


def onednn_int8_linear() -> Any:
    """oneDNN's linear layer of uint8 and int8: input, its scale and zero point, weight, its scales and zero point,
    bias, the result's scale, zero point and dtype, an activation, its numbers, its algorithm.

    It takes an input of int8 as well, but where oneDNN has no AMX it then computes a thousand times more slowly.
    """
    return torch.ops.onednn.qlinear_pointwise.tensor


def declared_shapes(module: torch.nn.Module, args: Any, kwargs: Any, shapes: Any) -> list[tuple[Any, Any]]:
    """Each leaf of a call's arguments, and what `dynamic_shapes` says of it. Raises what torch.export raises of it."""
    from torch.export.dynamic_shapes import _combine_args, _tree_map_with_path

    combined: Any = _combine_args(module, args, kwargs)
    if isinstance(shapes, tuple | list):
        combined = type(shapes)(combined.values())
    found: list[tuple[Any, Any]] = []
    _tree_map_with_path(lambda _, leaf, said: found.append((leaf, said)), combined, shapes, tree_name="inputs")
    return found
