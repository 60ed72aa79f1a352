"""Errors of a request: what a client sent, or asked for."""

from __future__ import annotations

from collections.abc import Sequence

from aoti_serve.errors.base import AotiServeError


class InvalidInput(AotiServeError, status=400):
    """The request cannot be answered as it is."""


class InvalidBody(InvalidInput):
    """The body, a header or a parameter is not what the protocol asks for."""

    detail: str


class UnservedParameter(InvalidInput, text="{where}parameter '{name}' is not served: {instead}"):
    """A parameter that other servers of the protocol have; to pass it over would answer another request."""

    where: str = ""
    name: str
    instead: str


class SequenceWithoutVersion(InvalidInput):
    """A request goes on with a sequence, and does not name the version that this began with by its number."""

    text = (
        "sequence {sequence}: a request that goes on with it asks for the version that it began with, by its number: "
        "the `model_version` of its first answer, at /v2/models/NAME/versions/N/infer, or as gRPC's `model_version`; "
        "the first request has `sequence_start: true`"
    )
    sequence: str


class UnknownInput(InvalidInput, text="input '{name}': the model has no such input; available: {known}"):
    """An input was sent that the model does not have."""

    name: str
    known: Sequence[str]


class MissingInput(InvalidInput, text="input '{name}': missing"):
    """An input of the model was not sent."""

    name: str


class UnknownOutput(InvalidInput, text="output '{name}': the model has no such output; available: {known}"):
    """An output was asked for that the model does not have."""

    name: str
    known: Sequence[str]


class RepeatedOutput(InvalidInput, text="output '{name}': asked for twice"):
    """An output was asked for twice, perhaps under two of its names."""

    name: str


class TooManyTensors(InvalidInput, text="{got} {what}, the limit is {limit} (gateway.max_request_tensors)"):
    """More inputs or outputs in one request than the configuration allows; none of them was read."""

    got: int
    what: str
    limit: int


class TooManyRows(InvalidInput, text="{rows} rows, the limit is {limit} (gateway.max_request_rows)"):
    """More rows in one request than the configuration allows."""

    rows: int
    limit: int


class EmptyRows(InvalidInput, text="{rows:rows} without a single byte"):
    """The request has rows that hold no bytes, so their number costs the client nothing."""

    rows: int


class WrongInputDtype(InvalidInput, text="input '{name}': datatype {got}, the model takes {expected}"):
    """The data type differs from the signature."""

    name: str
    got: str
    expected: str


class WrongInputShape(InvalidInput, text="input '{name}': shape {got}, the model takes {expected}: {reason}"):
    """Rank, a dimension or a dimension's range differs from the signature, or from another input."""

    name: str
    got: Sequence[int]
    expected: str
    reason: str


class WrongInputLength(InvalidInput, text="input '{name}': {got:{unit}}, shape {shape} needs {expected}"):
    """The data holds more or fewer elements or bytes than the shape says."""

    name: str
    got: int
    unit: str
    shape: Sequence[int]
    expected: int


class InvalidInputData(InvalidInput, text="input '{name}': {detail}"):
    """The data cannot be read as the data type says."""

    name: str
    detail: str


class NotOfDatatype(InvalidInputData, text="input '{name}': {detail} {datatype}"):
    """The data is not of the data type that the request itself gives it, `datatype`."""

    datatype: str


class IndexOutOfRange(InvalidInput):
    """A value was used as an index beyond the end of a table; the run's answer was discarded."""

    text = "input '{name}': an index in it, or made of it, is outside {low}..{high}, the range of '{table}'"
    name: str
    low: int | None
    high: int | None
    table: str


class UnknownModel(AotiServeError, status=404, text="model '{name}' is not served here; available: {known}"):
    """No model of this name is served here."""

    name: str
    known: Sequence[str]


class UnknownVersion(AotiServeError, status=404):
    """The request asks for a weights version that does not answer. `others` are those that do where they are asked."""

    text = "model '{name}' holds no version {version}: version {current} answers{others}"
    name: str
    version: str
    current: int
    others: str = ""


class SequenceEnded(AotiServeError, status=410, grpc="ABORTED"):
    """No replica holds the version with which the sequence began; its state means nothing to another."""

    text = (
        "sequence {sequence} of model '{name}' has ended: no replica holds version {version}, with which it began; "
        "begin anew with `sequence_start: true` and the state of a beginning, and version {current} answers"
    )
    sequence: str
    name: str
    version: str
    current: int


class NotServed(AotiServeError, status=501, grpc="UNIMPLEMENTED", text="{what} is not served here: {instead}"):
    """The client asks for what other servers of the protocol have. `instead` says why not, and what to do."""

    what: str
    instead: str


class HeadersTooLarge(AotiServeError, status=431, grpc="RESOURCE_EXHAUSTED"):
    """The headers of a call, its metadata among them, are more than the configuration allows."""

    text = (
        "the call's headers and metadata exceed {max_bytes:bytes} (gateway.max_header_bytes) or {max_headers:headers} "
        "(gateway.max_headers)"
    )
    max_bytes: int
    max_headers: int


class BodyTooLarge(AotiServeError, status=413, text="the body is larger than {limit} bytes ({setting})"):
    """The body is larger than the configuration allows."""

    limit: int
    setting: str


class BodyTooSlow(AotiServeError, status=408, grpc="DEADLINE_EXCEEDED"):
    """The body did not come as fast as the configuration asks for."""

    text = "the request's body comes slower than gateway.body_timeout_s and gateway.min_body_bytes_per_s allow"


class JsonTooLarge(BodyTooLarge):
    """The JSON of a request has more bytes, or more values, than the configuration allows."""

    text = "the JSON is larger than {limit} {unit} ({setting}); send the tensors as binary data"
    unit: str = "bytes"


class PoisonRequest(AotiServeError):
    """The request ran alone twice, and its replica died each time."""

    text = "model '{model}': two replicas died over this request; is one of its values out of range, an index perhaps?"
    model: str
