"""The OpenAPI document is valid, and has every route that is served, each under the names of its models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

from fastapi.routing import iter_route_contexts
from openapi_spec_validator import validate

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.http.app import build_app
from aoti_serve.gateway.http.unserved import unserved_routes
from aoti_serve.gateway.openapi.document import openapi_document
from aoti_serve.gateway.openapi.inference import DescribedModel
from aoti_serve.token import TokenSet
from tests.unit.gateway.http.gateway import SIGNATURE
from tests.unit.gateway.plane import Plane

MODELS = [DescribedModel("one", 3, SIGNATURE), DescribedModel("the-other.2", 0, SIGNATURE)]
DOCUMENT = openapi_document(MODELS)
UNDESCRIBED = {"/console", "/docs", "/openapi.json"}


def served() -> Iterator[tuple[str, str]]:
    """Path and method of each route of the application, with the models' names in it."""
    app = build_app(cast(DataPlane, Plane(None, 2**20)), Access(GatewayConfig(), TokenSet(b"key")), GatewayConfig())
    unserved = {route.path for route in unserved_routes()}
    for route in iter_route_contexts(app.router.routes):
        assert route.path is not None
        if route.path and route.path not in unserved and not route.path.startswith(tuple(UNDESCRIBED)):
            for method in (route.methods or set()) - {"HEAD"}:
                yield from ((route.path.replace("{name}", model.name), method.lower()) for model in MODELS)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        yield from ((path, method, operation) for method, operation in methods.items())


def test_it_is_valid() -> None:
    validate(DOCUMENT)


def test_it_has_every_route_and_no_other() -> None:
    assert {(path, method) for path, method, _ in operations()} == set(served())


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)


def test_the_weights_api_and_nothing_else_asks_for_the_token() -> None:
    for path, _, operation in operations():
        assert ("security" in operation) == ("/weights" in path) == ("401" in operation["responses"])


def test_with_inference_tokens_all_but_probes_and_the_way_to_them_asks_for_one() -> None:
    document = openapi_document(MODELS, tokens=True)
    validate(document)
    guarded = {path for path, methods in document["paths"].items() for found in methods.values() if "security" in found}
    assert set(document["paths"]) - guarded == {
        path for path in document["paths"] if path.endswith(("ready", "live", "/"))
    }


def test_every_schema_is_used_and_there() -> None:
    named = set(re.findall(r"'#/components/schemas/([^']+)'", str(DOCUMENT)))
    assert named == set(DOCUMENT["components"]["schemas"])
