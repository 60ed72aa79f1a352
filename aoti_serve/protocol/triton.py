"""Triton's extensions of the protocol as values: a model's configuration, and the index of the repository.

Field names are those of model_config.proto and of extension_model_repository.md (triton-inference-server).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import InvalidBody
from aoti_serve.protocol.messages import PLATFORM
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import BYTES, TensorSpec, dtype_named

DATA_TYPES = (
    *("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8"),
    *("TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16"),
)  # in the order of model_config.proto's numbers


def model_config(name: str, signature: Signature, batching: BatchingConfig) -> dict[str, Any]:
    """A model's configuration. Where requests are batched, `dims` leave out the dimension of the batch."""
    batches = signature.batch is not None
    config: dict[str, Any] = {
        "name": name,
        "platform": PLATFORM,
        "backend": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": batching.max_batch_size if batches else 0,
        "input": [_tensor(spec, batches) for spec in signature.inputs],
        "output": [_tensor(spec, batches) for spec in signature.outputs],
    }
    if batches:
        delay = round(batching.max_queue_delay_ms * 1e3)
        config["dynamic_batching"] = {"preferred_batch_size": [], "max_queue_delay_microseconds": delay}
    return config


def repository_index(models: Iterable[tuple[str, int, str | None]]) -> list[dict[str, str]]:
    """The models: name, weights version, and why it is not ready, if it is not."""
    return [
        {"name": name, "version": str(version), "state": "UNAVAILABLE" if reason else "READY", "reason": reason or ""}
        for name, version, reason in models
    ]


def decode_index_request(message: bytes) -> bool:
    """Whether only models that are ready are asked for. Raises InvalidBody."""
    try:
        found = orjson.loads(message or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidBody(detail=f"the body is not JSON: {error}") from error
    ready = found.get("ready", False) if isinstance(found, dict) else None
    if not isinstance(ready, bool):
        raise InvalidBody(detail="it is neither empty nor an object whose 'ready' is true or false")
    return ready


def _tensor(spec: TensorSpec, batches: bool) -> dict[str, Any]:
    dims = list(spec.static_shape)[1 if batches else 0 :]
    kind = "TYPE_STRING" if spec.dtype == BYTES.torch else f"TYPE_{dtype_named(spec.dtype).oip}"
    return {"name": spec.name, "data_type": kind if kind in DATA_TYPES else "TYPE_INVALID", "dims": dims}
