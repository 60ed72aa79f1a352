"""The OpenAPI document of a gateway."""

from __future__ import annotations

from collections.abc import Sequence

from aoti_serve import __version__
from aoti_serve.gateway.http.middleware import is_open
from aoti_serve.gateway.openapi.inference import SCHEMAS, DescribedModel, figures_paths, model_paths, server_paths
from aoti_serve.gateway.openapi.operations import ERROR, OpenApi, error_answers
from aoti_serve.gateway.openapi.weights import ADMIN, SCHEME, weights_paths, weights_schemas
from aoti_serve.protocol.openapi import request_schema, response_schema

INFERENCE = "inference"
_ABOUT = (
    "The Open Inference Protocol V2, Triton's extensions of it, and the weights API. Every error is "
    '`{"error": "...", "type": "..."}`. `X-Request-ID` comes back with each answer; HEAD is taken where GET is.'
)


def openapi_document(models: Sequence[DescribedModel], *, tokens: bool = False) -> OpenApi:
    """The document, OpenAPI 3.1, with the paths of each model under its own name; `tokens`: inference asks for one."""
    paths, schemas = server_paths([model.name for model in models]), SCHEMAS | {"Error": ERROR} | weights_schemas()
    for model in models:
        paths |= model_paths(model) | figures_paths(model.name) | weights_paths(model.name)
        schemas[f"{model.name}.Request"] = request_schema(model.signature)
        schemas[f"{model.name}.Response"] = response_schema(model.name, model.signature)
    schemes = {ADMIN: SCHEME}
    if tokens:
        schemes[INFERENCE] = {"type": "http", "scheme": "bearer", "description": "an inference token"}
        _guard(paths)
    components = {"schemas": schemas, "responses": error_answers(), "securitySchemes": schemes}
    about = {"title": "aoti-serve", "version": __version__, "description": _ABOUT}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": components}


def _guard(paths: OpenApi) -> None:
    """Say of each operation that asks for an inference token that it does."""
    refusals = {str(status): {"$ref": f"#/components/responses/{status}"} for status in (401, 429)}
    for operations in (operations for path, operations in paths.items() if not is_open(path)):
        for made in operations.values():
            made["security"] = [{INFERENCE: []}, {ADMIN: []}]
            made["responses"] |= refusals
