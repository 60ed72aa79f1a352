"""Every route of HTTP, from the document that a gateway shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aoti_serve.gateway.openapi.document import openapi_document
from aoti_serve.gateway.openapi.inference import DescribedModel
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import TensorSpec
from reference.markdown import table

MODEL = "MODEL"


def text() -> str:
    spec = TensorSpec(name="x", dtype="float32", shape=(1,))
    signature = Signature(inputs=(spec,), outputs=(spec,), constants=())
    document = openapi_document([DescribedModel(MODEL, 1, signature)])
    return table(("route", "does", "asks for", "answers"), _rows(document["paths"]))


def _rows(paths: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for path, operations in paths.items():
        for method, made in operations.items():
            token = "the admin token" if made.get("security") else ""
            statuses = ", ".join(str(status) for status in made["responses"])
            shown = path.replace(f"/{MODEL}", "/{model}")
            does = ". ".join(made[part] for part in ("summary", "description") if part in made)
            yield f"`{method.upper()} {shown}`", does, token, statuses
