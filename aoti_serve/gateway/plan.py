"""What a request's head asks of one model, checked."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from aoti_serve.model.signature import Signature
from aoti_serve.protocol.decode import decode_head
from aoti_serve.protocol.messages import RequestHead
from aoti_serve.tensors import Shaped, TensorSpec

MANY_HEADS = 512
LARGE_HEAD = 4096  # bytes: with its data in JSON it would not come again


class Plan(NamedTuple):
    """`order`: where the head has the signature's inputs; `outputs`: which to answer, by their place, in order."""

    head: RequestHead
    order: tuple[int, ...]
    outputs: tuple[tuple[int, TensorSpec], ...]


class Planner:
    """Reads heads for one model. A client's heads are mostly the same bytes: those are read and checked once."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._accepts = signature.for_any_batch
        self._known = lru_cache(MANY_HEADS)(self._plan)

    def plan(self, head: bytes) -> Plan:
        """Raises an InvalidInput that names the input, or UnknownOutput."""
        return self._known(head) if len(head) <= LARGE_HEAD else self._plan(head)

    def _plan(self, message: bytes) -> Plan:
        head = decode_head(message)
        signature = self._accepts
        inputs = signature.by_input({tensor.name: index for index, tensor in enumerate(head.inputs)})
        shapes = {name: Shaped(head.inputs[index].dtype, head.inputs[index].shape) for name, index in inputs.items()}
        signature.check_inputs(shapes)
        wanted = [signature.output_named(name) for name in head.outputs or []]
        binary = frozenset(signature.output_named(name) for name in head.binary)
        places = {spec.name: (index, spec) for index, spec in enumerate(signature.outputs)}
        order = tuple(inputs[spec.name] for spec in signature.inputs)
        return Plan(replace(head, binary=binary), order, tuple(places[name] for name in wanted or places))
