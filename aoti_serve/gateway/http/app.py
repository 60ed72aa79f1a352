"""The app of one gateway: the routes of the Open Inference Protocol V2, which only translate and call.

HTTP form: kserve/open-inference-protocol, inference_rest.md; binary data: Triton's extension_binary_data.md.
"""

# No postponed annotations here: FastAPI could not resolve the ones that name a local guard.
import logging

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from aoti_serve import __version__
from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AotiServeError, InvalidBody, problems
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.console.routes import console_routes
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.http.bodies import read_body
from aoti_serve.gateway.http.docs import docs_routes
from aoti_serve.gateway.http.inference import PATHS, Inference, route_of
from aoti_serve.gateway.http.middleware import protected
from aoti_serve.gateway.http.request_id import REQUEST_ID, RequestIdMiddleware
from aoti_serve.gateway.http.responses import READ, error_response, internal_error, json_response
from aoti_serve.gateway.http.root import root_routes
from aoti_serve.gateway.http.statistics import statistics_routes
from aoti_serve.gateway.http.unserved import answer_unrouted, unserved_routes
from aoti_serve.gateway.http.weights import weights_routes
from aoti_serve.gateway.in_flight import BodyLimits, Share
from aoti_serve.gateway.request_log import RequestLog
from aoti_serve.protocol.messages import server_metadata
from aoti_serve.protocol.triton import decode_index_request

logger = logging.getLogger("ray.serve")
_INDEX = BodyLimits(2**12, "of this request")


class App(FastAPI):
    """The routes of one gateway. Inference bypasses FastAPI."""

    inference: Inference
    identified: RequestIdMiddleware

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.identified(scope, receive, send)

    async def dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. `identified` calls this."""
        if route_of(scope) is not None:
            await self.inference(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            pass
        except Exception:  # it is answered
            logger.exception("a request failed (X-Request-ID %s)", scope.get(REQUEST_ID))


def build_app(plane: DataPlane, access: Access, config: GatewayConfig) -> FastAPI:
    """The ASGI app of one gateway."""
    app = App(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.inference = Inference(plane, config)
    app.identified = RequestIdMiddleware(protected(app.dispatch, access, config), RequestLog(config.access_log))
    for path in PATHS:  # first: Serve looks up the route of each request for its metrics
        app.router.routes.insert(0, Route(path, app.inference, methods=["POST"]))
    app.router.routes.extend(root_routes(config).routes)
    app.include_router(_health(plane))
    app.include_router(statistics_routes(plane))  # before those of a model: `stats` is no model's name there
    app.include_router(_models(plane))
    for routes in weights_routes(plane, access, config):
        app.include_router(routes, prefix="/v2/models/{name}/weights")
    app.router.routes.extend(unserved_routes())
    if config.console:
        app.include_router(console_routes())
    if config.docs:
        app.include_router(docs_routes(plane, tokens=access.asks_for_inference))
    _add_error_handlers(app)
    return app


def _health(plane: DataPlane) -> APIRouter:
    routes = APIRouter(tags=["server"])

    @routes.api_route("/v2", methods=READ)
    async def server() -> Response:
        return json_response(server_metadata(__version__))

    @routes.api_route("/v2/health/live", methods=READ)
    async def live() -> Response:
        return json_response({"live": True})

    @routes.api_route("/ready", methods=READ)
    @routes.api_route("/v2/health/ready", methods=READ)
    async def ready() -> Response:
        reason = plane.reason_not_ready
        return json_response({"ready": False, "reason": reason} if reason else {"ready": True}, 503 if reason else 200)

    return routes


def _models(plane: DataPlane) -> APIRouter:
    routes = APIRouter(tags=["models"])

    @routes.api_route("/v2/models", methods=READ)
    async def models() -> Response:
        return json_response({"models": plane.names})

    @routes.api_route("/v2/models/{name}", methods=READ)
    @routes.api_route("/v2/models/{name}/versions/{version}", methods=READ)
    async def model(name: str, version: str | None = None) -> Response:
        return json_response(plane.model(name).metadata(version))

    @routes.api_route("/v2/models/{name}/config", methods=READ)
    @routes.api_route("/v2/models/{name}/versions/{version}/config", methods=READ)
    async def config(name: str, version: str | None = None) -> Response:
        return json_response(plane.model(name).triton_config(version))

    @routes.post("/v2/repository/index")
    async def index(request: Request) -> Response:
        with Share(plane.budget) as share:
            asked = await read_body(request.receive, dict(request.headers.raw), _INDEX, share)
        return json_response(plane.index(ready_only=decode_index_request(bytes(asked))))

    @routes.api_route("/v2/models/{name}/ready", methods=READ)
    @routes.api_route("/v2/models/{name}/versions/{version}/ready", methods=READ)
    async def model_ready(name: str, version: str | None = None) -> Response:
        served = plane.model(name)
        served.check_version(version)
        reason = served.reason_not_ready
        said = {"name": name, "ready": False, "reason": reason} if reason else {"name": name, "ready": True}
        return json_response(said, 503 if reason else 200)

    return routes


def _add_error_handlers(app: App) -> None:
    @app.exception_handler(AotiServeError)
    async def answer_error(_: Request, error: AotiServeError) -> Response:
        return error_response(error)

    @app.exception_handler(Exception)
    async def answer_defect(_: Request, error: Exception) -> Response:
        return internal_error(error)  # Starlette raises it again, and it is logged

    @app.exception_handler(HTTPException)
    async def answer_without_route(request: Request, error: HTTPException) -> Response:
        return answer_unrouted(app.router.routes, request, error)

    @app.exception_handler(RequestValidationError)
    async def answer_invalid(_: Request, error: RequestValidationError) -> Response:
        return error_response(InvalidBody(detail=problems(error.errors())))
