"""LSTMs whose weights are packed when they are staged: what of a program becomes oneDNN's own operator, layer by layer.

Left to the compiler, an LSTM becomes the same operator (torch/_decomp/decompositions.py), which packs plain weights in
every run.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from aoti_serve.model.preparation.recipe import PACKED_LSTM_HIDDEN, PACKED_LSTM_INPUT, Recipe
from aoti_serve.model.program.dataflow import argument_named, inserted
from aoti_serve.model.program.layers.packing import weights_of
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.torch_private import onednn_lstm

_aten = torch.ops.aten
_PLACES = {PACKED_LSTM_INPUT: 0, PACKED_LSTM_HIDDEN: 1}  # among the weights and biases of one layer and direction


def pack_lstms(program: ExportedProgram, signature: Signature) -> tuple[Recipe, ...]:
    """Let oneDNN compute the LSTMs, in place; returns the recipes of their weights.

    A weight is packed only if nothing reads it but LSTMs, all of them for the same: their input, or their state.

    It always pays. One LSTM in a container, one thread, AVX-512 with AMX, torch 2.13; plain over packed, by batch:

    | | 1 | 8 | 64 |
    |---|---|---|---|
    | 6 to 10, 1 step | 1.26 | 1.26 | 1.27 |
    | 64 to 64, 16 steps | 1.31 | 1.23 | 1.12 |
    | 128 to 128 both ways, 16 steps | 1.78 | 1.18 | 1.11 |
    | 256 to 256 in two layers, 1 step | 2.14 | 2.32 | 1.44 |
    | the same, 16 steps | 1.58 | 1.31 | 1.04 |
    | the same, 100 steps | 1.29 | 1.06 | 1.04 |
    | 512 to 512, 1 step | 2.91 | 2.83 | 1.64 |
    | the same, 16 steps | 1.70 | 1.39 | 1.20 |
    | the same, 100 steps | 1.21 | 1.14 | 1.13 |
    | bfloat16, 256 to 256 in two layers, 16 steps | 1.42 | 1.19 | 1.12 |
    """
    values = dict(program.constants) | dict(program.state_dict)
    specs = {spec.name: spec for spec in signature.constants}
    recipes: list[Recipe] = []
    found: dict[Node, None] = {}
    for by, place in _PLACES.items():
        for names, calls in weights_of(program, values, partial(_reads, place)):
            if values[names[0]].is_contiguous() and values[names[0]].numel():
                recipes += [Recipe(source=name, constants=(specs[name],), by=by) for name in names]
                found |= dict.fromkeys(calls)
    for call in found:
        _replace(call)
    if recipes:
        program.graph_module.recompile()
    return tuple(recipes)


def _reads(place: int, call: Node, constant: Node) -> bool:
    """Whether a call is of an LSTM that fits, and a constant has this place in its layers, and no other."""
    if call.target is not _aten.lstm.input or not _fits_onednn(call):
        return False
    size = _size(call)
    places = {index % size for index, weight in enumerate(argument_named(call, "params")) if weight is constant}
    return places == {place} and constant not in (argument_named(call, "input"), *argument_named(call, "hx"))


def _fits_onednn(call: Node) -> bool:
    """Whether an LSTM is one that oneDNN computes: of one dtype, and without projections."""
    hidden, cell = (state.meta["val"] for state in argument_named(call, "hx"))
    tensors = [argument_named(call, "input"), *argument_named(call, "params")]
    dtypes = {hidden.dtype, cell.dtype, *(node.meta["val"].dtype for node in tensors)}
    return (
        dtypes in ({torch.float32}, {torch.bfloat16})
        and hidden.shape[-1] == cell.shape[-1]
        and not argument_named(call, "train")
    )


def _size(call: Node) -> int:
    """How many weights and biases a layer has in each direction."""
    return 4 if argument_named(call, "has_biases") else 2


class _Part(NamedTuple):
    """What one layer computes in one direction: its steps, its last state, and its last cells."""

    steps: Node
    state: Node
    cells: Node


def _replace(call: Node) -> None:
    """Compute an LSTM layer by layer; its results keep their names, by which the program's outputs know them."""
    emit = partial(inserted, call)
    turned = argument_named(call, "batch_first")
    directions = 2 if argument_named(call, "bidirectional") else 1
    steps, parts = argument_named(call, "input"), []
    steps = emit(_aten.transpose.int, steps, 0, 1) if turned else steps
    for layer in range(argument_named(call, "num_layers")):
        made = [_part(emit, call, steps, layer * directions + index, index == 1) for index in range(directions)]
        steps = emit(_aten.cat.default, [part.steps for part in made], 2) if len(made) > 1 else made[0].steps
        parts += made
    results = (
        (_aten.transpose.int, (steps, 0, 1)) if turned else (_aten.alias.default, (steps,)),
        (_aten.cat.default, ([part.state for part in parts],)),
        (_aten.cat.default, ([part.cells for part in parts],)),
    )
    for result in list(call.users):
        _, place = result.args
        assert isinstance(place, int)
        result.target, result.args = results[place]
    call.graph.erase_node(call)


def _part(emit: Callable[..., Node], call: Node, steps: Node, index: int, reverse: bool) -> _Part:
    size = _size(call)
    own = argument_named(call, "params")[index * size : (index + 1) * size]
    biases = own[2:] or own  # without biases two tensors are passed that nothing reads
    given = [emit(_aten.slice.Tensor, state, 0, index, index + 1) for state in argument_named(call, "hx")]
    taken = [emit(_aten.contiguous.default, node) for node in (steps, *given)]
    hidden = given[0].meta["val"].shape[-1]
    made = emit(onednn_lstm(), taken[0], *own[:2], *biases, *taken[1:], *_numbers(reverse, hidden, size == 4))
    return _Part(*(emit(operator.getitem, made, place) for place in range(3)))


def _numbers(reverse: bool, hidden: int, biased: bool) -> tuple[object, ...]:
    """What is left of the operator's arguments, of which it is told one layer in one direction."""
    lstm, layers, bidirectional, batch_first, train = 2, 1, False, False, False
    return reverse, [], lstm, hidden, layers, biased, bidirectional, batch_first, train
