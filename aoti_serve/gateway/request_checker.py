"""Checks of a request's head against the signature of one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from numpy.typing import NDArray

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import EmptyRows, InvalidInputData, NotOfDatatype, RepeatedOutput, TooManyRows, WrongInputLength
from aoti_serve.protocol.decode import decode_head
from aoti_serve.protocol.grpc.head import decode_infer_head
from aoti_serve.protocol.messages import InputHead, RequestHead
from aoti_serve.protocol.ragged import Filling, RowLengths
from aoti_serve.protocol.ragged_checks import RaggedChecks
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import BYTES, Shaped, TensorSpec

Decoder = Callable[[Any, GatewayConfig], RequestHead]
MANY_HEADS = 512
MADE = -1
NO_STRINGS = (
    "BYTES are strings, and a compiled model takes numbers only; send token ids, for example, or give the model a "
    "`processor` that makes them of text"
)
LARGE_HEAD = 4096  # bytes: a larger one has its data in JSON, and does not come again


class CheckedRequest(NamedTuple):
    """A checked head. `order` holds the place in it of each of the signature's inputs; `MADE` for a mask that is made.

    `outputs` holds the wanted outputs in their order, each with its place in the signature. `filling` says how `inputs`
    are filled up; None if they are as they were sent.
    """

    head: RequestHead
    order: tuple[int, ...]
    outputs: tuple[tuple[int, TensorSpec], ...]
    inputs: tuple[TensorSpec, ...] = ()
    filling: Filling | None = None

    @property
    def lengths(self) -> RowLengths:
        """The lengths of its rows by dimension, where they differ."""
        return self.filling.lengths if self.filling else {}

    def ordered(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """The arrays of the head in the signature's order, filled up."""
        if self.filling is None:
            return [arrays[place] for place in self.order]
        return [
            self.filling.mask(spec) if place == MADE else self.filling.filled(spec, arrays[place])
            for spec, place in zip(self.inputs, self.order, strict=True)
        ]


def _places(head: RequestHead) -> dict[str, int]:
    places: dict[str, int] = {}
    for index, tensor in enumerate(head.inputs):
        if tensor.name in places:
            raise InvalidInputData(name=tensor.name, detail="sent twice")
        places[tensor.name] = index
    return places


class RequestChecker:
    """Checks heads for one model. `read` also reads them, of which most are the same bytes again."""

    def __init__(self, signature: Signature, limits: GatewayConfig) -> None:
        self._accepts = signature.for_any_batch
        self._batches = signature.batch is not None
        self._limits = limits
        self._ragged = RaggedChecks(signature, limits.max_body_bytes)
        self._known = {spec.name for spec in signature.inputs}
        self._strings = any(spec.dtype == BYTES.torch for spec in signature.inputs)
        self._decoded_once = lru_cache(MANY_HEADS)(self._decoded)

    def read(self, message: bytes) -> CheckedRequest:
        """The request whose head is this JSON. Raises JsonTooLarge, or what `decode_head` and `check` raise."""
        return self._read(message, decode_head)

    def read_protobuf(self, head: bytes | memoryview) -> CheckedRequest:
        """The request with this head of a ModelInferRequest. Raises what `decode_infer_head` and `check` raise."""
        return self._read(head, decode_infer_head)

    def check(self, head: RequestHead) -> CheckedRequest:
        """The request of this head, from any protocol. Raises an InvalidInput that names the input or the output."""
        signature = self._accepts
        inputs = signature.by_input(_places(head))
        sent = {name: head.inputs[index] for name, index in inputs.items()}
        shapes = signature.with_masks({name: Shaped(tensor.dtype, tensor.shape) for name, tensor in sent.items()})
        for name, shaped in shapes.items():
            self._check_takes_strings(name, shaped.dtype)
        signature.check_inputs(shapes)
        if self._batches:
            self._check_rows(list(shapes.values()))
        wanted = self._outputs(head)
        binary = frozenset(signature.output_named(name) for name in head.binary)
        order = tuple(inputs.get(spec.name, MADE) for spec in signature.inputs)
        checked = CheckedRequest(replace(head, binary=binary), order, wanted, signature.inputs)
        return checked._replace(filling=self._filling(checked, sent, shapes))

    def _read(self, message: bytes | memoryview, decode: Decoder) -> CheckedRequest:
        return self._decoded_once(message, decode) if len(message) <= LARGE_HEAD else self._decoded(message, decode)

    def _decoded(self, message: bytes | memoryview, decode: Decoder) -> CheckedRequest:
        try:
            head = decode(message, self._limits)
        except (InvalidInputData, WrongInputLength) as error:
            # A wrong name is to be mended first, then a wrong datatype.
            (name,) = own = self._accepts.by_input({error.name: None})
            self._accepts.check_known(own)
            if isinstance(error, NotOfDatatype):
                self._check_takes_strings(name, error.datatype)
                self._accepts.check_datatype(name, error.datatype)
            raise
        return self.check(head)

    def _outputs(self, head: RequestHead) -> tuple[tuple[int, TensorSpec], ...]:
        names = [self._accepts.output_named(name) for name in head.outputs or []]
        for name, number in Counter(names).items():
            if number > 1:
                raise RepeatedOutput(name=name)
        places = {spec.name: (index, spec) for index, spec in enumerate(self._accepts.outputs)}
        return tuple(places[name] for name in names or places)

    def _filling(
        self, request: CheckedRequest, sent: Mapping[str, InputHead], shapes: Mapping[str, Shaped]
    ) -> Filling | None:
        ragged = (
            self._ragged.lengths(sent, shapes) if any(tensor.lengths is not None for tensor in sent.values()) else {}
        )
        made = {name: shapes[name].shape for name in shapes.keys() - sent.keys()}
        if not ragged and not made:
            return None
        self._ragged.check_outputs(request.head, request.outputs, ragged)
        padding = self._accepts.padding
        return Filling(ragged, made, padding.values if padding else {})

    def _check_takes_strings(self, name: str, dtype: str) -> None:
        if dtype == BYTES.torch and not self._strings and name in self._known:
            raise InvalidInputData(name=name, detail=NO_STRINGS)

    def _check_rows(self, tensors: list[Shaped]) -> None:
        """Refuse too many rows: each costs work, also those for which the client sent no bytes."""
        rows, limit = tensors[0].shape[0], self._limits.max_request_rows
        if rows > limit:
            raise TooManyRows(rows=rows, limit=limit)
        if rows and all(0 in tensor.shape for tensor in tensors):
            raise EmptyRows(rows=rows)
