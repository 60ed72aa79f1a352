"""What no route answers: unknown paths and methods, OPTIONS, and the routes of Triton's that are not served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from aoti_serve.errors import NotServed, shortened
from aoti_serve.gateway.http.responses import error_reply, error_response
from aoti_serve.protocol.unserved import GENERATION, LOADING, LOG_SETTINGS, REQUEST_TRACING, SHARED_MEMORY
from aoti_serve.signature.tensors import CUDA

METHODS = ("GET", "HEAD", "POST")
_OF_A_MODEL = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
_PATHS_OF_MEMORY = ("status", "register", "unregister", "region/{region}/{action}")

# What Triton serves under these paths.
_UNSERVED: dict[tuple[str, ...], NotServed] = {
    ("/v2/repository/models/{name}/load", "/v2/repository/models/{name}/unload"): LOADING,
    ("/v2/trace/setting", "/v2/models/{name}/trace/setting"): REQUEST_TRACING,
    ("/v2/logging",): LOG_SETTINGS,
    tuple(f"/v2/{kind}sharedmemory/{path}" for kind in ("system", CUDA) for path in _PATHS_OF_MEMORY): SHARED_MEMORY,
    tuple(f"{place}/{path}" for place in _OF_A_MODEL for path in ("generate", "generate_stream")): GENERATION,
}


def unserved_routes() -> list[Route]:
    """The routes of Triton's that are answered with the reason why they are not served."""
    return [
        Route(path, _refusal(error), methods=["GET", "POST"]) for paths, error in _UNSERVED.items() for path in paths
    ]


def _refusal(error: NotServed) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(_: Request) -> Response:
        return error_response(error)

    return refuse


def answer_unrouted(routes: Iterable[BaseRoute], request: Request, error: HTTPException) -> Response:
    """The answer to a path or a method that no route has: 404, 405, or to OPTIONS which methods there are."""
    if error.status_code != 405:
        asked = f"{shortened(request.method, 32)} {shortened(request.url.path, 512)}"
        return error_reply(f"{asked}: {error.detail}; /v2/models lists what is served", error.status_code)
    allowed = ", ".join([*_methods_of(routes, request), "OPTIONS"])
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"allow": allowed})
    text = f"{shortened(request.url.path, 512)} is not asked with {shortened(request.method, 32)}; available: {allowed}"
    response = error_reply(text, 405)
    response.headers["allow"] = allowed
    return response


def _methods_of(routes: Iterable[BaseRoute], request: Request) -> list[str]:
    """The methods of a path. Several routes may have it, so each method is looked up as a request would be."""
    kept = list(routes)
    return [
        method
        for method in METHODS
        if any(r.matches({**request.scope, "method": method})[0] is Match.FULL for r in kept)
    ]
