"""V2 requests, responses and metadata as values. Names as in the specification's inference_rest.md."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from aoti_serve.signature.tensors import Dim, TensorSpec, dtype_named

PLATFORM = "pytorch_aotinductor"
LEAST_URGENT = 9  # levels of priority go from 1 to this
LONGEST_KEY = 256  # characters


class InputHead(NamedTuple):
    """The head of one input: its data is `array`, or the next `nbytes` behind the JSON part.

    `dtype` is a torch name, `array` has `shape`; raw types are held as unsigned integers. Of rows of different lengths,
    which `lengths` has, `array` holds one behind the other, and `shape` is theirs when all are as long as the longest.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int | None
    array: NDArray[Any] | None = None
    lengths: tuple[int, ...] | None = None


class SequenceStep(NamedTuple):
    """What a request says of the sequence that it belongs to: its id, as it is shown, and whether it is the first."""

    id: str
    begins: bool


@dataclass(frozen=True)
class RequestHead:
    """The JSON part of a request; binary data may follow it.

    `outputs` names the wanted outputs, None stands for all; `binary` names those that are answered as binary data.
    `priority` is 0 if none was asked for. `timeout` is in seconds. Requests of one `routing_key` are answered by the
    same version while a candidate is out.
    """

    id: str | None
    inputs: tuple[InputHead, ...] = ()
    outputs: list[str] | None = None
    binary: Collection[str] = ()
    binary_default: bool = False
    priority: int = 0
    timeout: float | None = None
    routing_key: str | None = None
    sequence: SequenceStep | None = None

    def wants_binary(self, output: str) -> bool:
        return output in self.binary or (self.binary_default and self.outputs is None)


@dataclass(frozen=True)
class InferResponse:
    """`outputs` are (spec, array) in the order they are answered, for `rows` that were asked.

    `lengths` are those of the rows by dimension, where they were sent with different ones.
    """

    model_name: str
    model_version: int
    id: str | None
    outputs: list[tuple[TensorSpec, NDArray[Any]]] = field(default_factory=list)
    rows: int = 1
    lengths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


# Triton's names of its extensions, and ours. Of `model_repository` only the index is served, so it is not here.
EXTENSIONS = ["binary_tensor_data", "model_configuration", "schedule_policy", "statistics", "weights"]


def server_metadata(version: str) -> dict[str, object]:
    return {"name": "aoti-serve", "version": version, "extensions": EXTENSIONS}


def model_metadata(
    name: str, versions: Sequence[int], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> dict[str, object]:
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in inputs],
        "outputs": [_tensor(spec) for spec in outputs],
    }


def without_parameters(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A model's metadata for gRPC, whose message of a tensor has no field for `parameters`."""
    tensors = {kind: [dict(entry) for entry in metadata[kind]] for kind in ("inputs", "outputs") if kind in metadata}
    for entry in (entry for entries in tensors.values() for entry in entries):
        entry.pop("parameters", None)
    return {**metadata, **tensors}


def _tensor(spec: TensorSpec) -> dict[str, object]:
    datatype, shape = dtype_named(spec.dtype).oip, list(spec.static_shape)
    entry: dict[str, object] = {"name": spec.name, "datatype": datatype, "shape": shape}
    varying = {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, Dim)}
    return entry | ({"parameters": _ranges(varying)} if varying else {})


def _ranges(dims: Mapping[int, Dim]) -> dict[str, object]:
    """What `shape` says with -1 only. Flat, as the protocol's parameters are strings, numbers and booleans."""
    found: dict[str, object] = {}
    for axis, dim in dims.items():
        low, high = dim.sizes
        found |= {f"dim_{axis}": dim.expression, f"dim_{axis}_min": low}
        found |= {f"dim_{axis}_max": high} if high is not None else {}
        found |= {f"dim_{axis}_step": dim.factor} if dim.factor > 1 else {}
    return found
