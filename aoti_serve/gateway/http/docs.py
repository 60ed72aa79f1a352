"""The routes of the documentation: the OpenAPI document, and a page that shows it and sends requests.

The page is Swagger UI. Its script and style lie on the gateway's own disk; the page's policy forbids all other sources.
"""

# No postponed annotations here: FastAPI could not resolve those of local functions.
from collections.abc import Awaitable, Callable
from functools import lru_cache
from importlib.resources import files

import orjson
from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, Response

from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.http.responses import READ
from aoti_serve.gateway.openapi.document import openapi_document
from aoti_serve.gateway.openapi.inference import DescribedModel

_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",  # a token may be typed into it
    ]
)
_PAGE = get_swagger_ui_html(
    title="aoti-serve",
    # Relative: a proxy may have put a prefix before them all.
    openapi_url="openapi.json",
    swagger_js_url="docs/swagger-ui-bundle.js",
    swagger_css_url="docs/swagger-ui.css",
    swagger_favicon_url="docs/favicon-32x32.png",
    swagger_ui_parameters={"validatorUrl": None},  # which would be sent the document
).body
_KINDS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


def docs_routes(plane: DataPlane, *, tokens: bool) -> APIRouter:
    """`/openapi.json`, `/docs`, and what the page loads; with inference `tokens` or without."""
    routes = APIRouter()

    @lru_cache(1)  # until the weights of a model change
    def written(versions: tuple[int, ...], root_path: str) -> bytes:
        versioned = zip(plane.models(), versions, strict=True)
        models = [DescribedModel(served.name, version, served.signature) for served, version in versioned]
        servers = {"servers": [{"url": root_path}]} if root_path else {}
        return orjson.dumps(openapi_document(models, tokens=tokens) | servers)

    @routes.api_route("/openapi.json", methods=READ)
    async def document(request: Request) -> Response:
        versions = tuple(served.version for served in plane.models())
        return Response(written(versions, request.scope.get("root_path", "")), media_type="application/json")

    @routes.api_route("/docs", methods=READ)
    async def page() -> Response:
        return Response(_PAGE, media_type="text/html", headers={"content-security-policy": _POLICY})

    for name, kind in _KINDS.items():
        routes.add_api_route(f"/docs/{name}", _asset(name, kind), methods=READ)
    return routes


def _asset(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    path = str(files("fastapi_swagger").joinpath("resources", name))

    async def asset() -> Response:
        return FileResponse(path, media_type=kind)

    return asset
