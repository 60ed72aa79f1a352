"""The routes of the Open Inference Protocol V2 and of the weights API. They only translate and call.

HTTP form: kserve/open-inference-protocol, inference_rest.md; binary data: Triton's extension_binary_data.md.
"""

# No postponed annotations here: FastAPI could not resolve the ones that name a local guard.
import logging
from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

import orjson
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from aoti_serve import __version__
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.cluster.transfer.upload import UPLOAD_CHUNK_BYTES, rechunk
from aoti_serve.config import GatewayConfig, problems
from aoti_serve.errors import AotiServeError, BodyTooLarge, InvalidBody, shortened
from aoti_serve.gateway.data_plane import DataPlane, ServedModel
from aoti_serve.gateway.http.admin import Guard, RollbackBody, SwapBody
from aoti_serve.gateway.http.bodies import BodyLimits, ReadingBudget, Share, read_body, stream_body
from aoti_serve.gateway.http.inference import PATHS, Inference, route_of
from aoti_serve.gateway.http.request_id import REQUEST_ID, RequestIdMiddleware
from aoti_serve.gateway.http.responses import error_reply, error_response, internal_error, json_response
from aoti_serve.protocol.messages import server_metadata
from aoti_serve.weights.swap_options import SwapOptions

logger = logging.getLogger("ray.serve")
JsonBody = TypeVar("JsonBody", bound=BaseModel)


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


def build_app(plane: DataPlane, guard: Guard, config: GatewayConfig) -> FastAPI:
    """The ASGI app of one gateway."""
    app = App(title="aoti-serve", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    budget = ReadingBudget(config.max_reading_bytes)
    app.inference = Inference(plane, config, budget)
    app.identified = RequestIdMiddleware(app.dispatch, access_log=config.access_log)
    for path in PATHS:  # first: Serve looks up the route of each request for its metrics
        app.router.routes.insert(0, Route(path, app.inference, methods=["POST"]))
    for routes in (_health(plane), _models(plane)):
        app.include_router(_with_heads(routes))
    app.include_router(_weights(plane, guard, config, budget), prefix="/v2/models/{name}/weights")
    app.add_exception_handler(AotiServeError, _answer_error)
    app.add_exception_handler(Exception, _answer_defect)
    app.add_exception_handler(HTTPException, _answer_unrouted)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    return app


def _with_heads(routes: APIRouter) -> APIRouter:
    """Answer HEAD wherever GET is answered, since load balancers ask so."""
    for route in routes.routes:
        assert isinstance(route, APIRoute)
        route.methods = {*(route.methods or ()), "HEAD"}
    return routes


def _health(plane: DataPlane) -> APIRouter:
    routes = APIRouter(tags=["server"])

    @routes.get("/v2")
    async def server() -> Response:
        return json_response(server_metadata(__version__))

    @routes.get("/v2/health/live")
    async def live() -> Response:
        return json_response({"live": True})

    @routes.get("/ready")
    @routes.get("/v2/health/ready")
    async def ready() -> Response:
        reason = plane.reason_not_ready
        return json_response({"ready": False, "reason": reason} if reason else {"ready": True}, 503 if reason else 200)

    return routes


def _models(plane: DataPlane) -> APIRouter:
    routes = APIRouter(tags=["models"])

    @routes.get("/v2/models")
    async def models() -> Response:
        return json_response({"models": plane.names})

    @routes.get("/v2/models/{name}")
    @routes.get("/v2/models/{name}/versions/{version}")
    async def model(name: str, version: str | None = None) -> Response:
        return json_response(plane.model(name).metadata(version))

    @routes.get("/v2/models/{name}/ready")
    @routes.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None) -> Response:
        served = plane.model(name)
        served.check_version(version)
        return json_response({"name": name, "ready": served.ready}, 200 if served.ready else 503)

    return routes


def _weights(plane: DataPlane, guard: Guard, config: GatewayConfig, budget: ReadingBudget) -> APIRouter:
    uploads = BodyLimits(config.max_weights_bytes, "gateway.max_weights_bytes")
    json = BodyLimits(config.max_json_bytes, "gateway.max_json_bytes")

    async def read(request: Request) -> bytes:
        with Share(budget) as share:
            return bytes(await read_body(request.receive, _headers(request), json, share))

    async def admit(request: Request, name: str) -> ServedModel:
        try:
            guard.check(request.headers.get("authorization"))
        except AotiServeError as error:
            plane.note_refused(name, f"{request.method} {request.url.path}", _address(request), str(error))
            raise
        return plane.model(name)

    def who(request: Request) -> str:
        return f"{guard.holder} from {_address(request)}"

    Admin = Annotated[ServedModel, Depends(admit)]
    Who = Annotated[str, Depends(who)]
    routes = APIRouter(tags=["weights"])

    @routes.get("")
    async def status(served: Admin) -> Response:
        return json_response(await served.weights.status())

    @routes.get("/versions")
    async def versions(served: Admin) -> Response:
        return json_response([version.model_dump() for version in await served.weights.versions()])

    @routes.get("/story")
    async def story(served: Admin) -> Response:
        return json_response([event.model_dump() for event in await served.weights.story()])

    @routes.get("/events")
    async def events(served: Admin) -> Response:
        return StreamingResponse(_events(plane, served), media_type="text/event-stream")

    @routes.post("")
    async def swap(request: Request, served: Admin, who: Who, wait: bool = True) -> Response:
        try:
            return _change_response(await run_swap(request, served, who, wait), wait)
        except (InvalidBody, BodyTooLarge) as error:  # the coordinator audits everything else, but has not seen this
            plane.note_refused(served.name, "swap", who, str(error))
            raise

    @routes.post("/rollback")
    async def rollback(request: Request, served: Admin, who: Who, wait: bool = True) -> Response:
        wanted = _parsed(RollbackBody, await read(request) or b"{}")
        return _change_response(await served.weights.rollback(wanted.version, who, wait), wait)

    async def run_swap(request: Request, served: ServedModel, who: str, wait: bool) -> WeightsStatus:
        if request.headers.get("content-type", "").startswith("application/octet-stream"):
            asked = {name: value for name, value in request.query_params.items() if name != "wait"}
            order = _checked(lambda: SwapOptions.model_validate(asked))
            body = stream_body(request.receive, _headers(request), uploads)
            return await served.weights.swap_bytes(rechunk(body, UPLOAD_CHUNK_BYTES), order, who, wait)
        if not request.headers.get("content-type", "").startswith("application/json"):
            kinds = 'application/octet-stream with the safetensors bytes, or application/json with {"uri": ...}'
            raise InvalidBody(detail=f"the Content-Type must be {kinds}")
        wanted = _parsed(SwapBody, await read(request))
        return await served.weights.swap_uri(wanted.uri, wanted.order, who, wait)

    return routes


def _headers(request: Request) -> dict[bytes, bytes]:
    return dict(request.scope["headers"])


def _address(request: Request) -> str:
    """The address of the client, and the one that a proxy says it asks for."""
    connected = request.client.host if request.client else "unknown"
    forwarded = request.headers.get("x-forwarded-for")
    return f"{connected} for {forwarded}" if forwarded else connected


def _change_response(status: WeightsStatus, wait: bool) -> Response:
    """The response to a change: 200 if it has ended, 202 if it has only begun."""
    return json_response(status, 200 if wait else 202)


async def _events(plane: DataPlane, served: ServedModel) -> AsyncIterator[bytes]:
    """Server-sent events: the status now and at every change, until this gateway stops."""
    seen = -1
    while plane.door.open:
        status = await served.weights.status(seen)
        if status.revision != seen:
            yield b"event: weights\ndata: " + orjson.dumps(status.model_dump()) + b"\n\n"
        else:
            yield b": nothing new\n\n"  # shows that both ends are alive
        seen = status.revision


def _parsed(kind: type[JsonBody], body: bytes) -> JsonBody:
    return _checked(lambda: kind.model_validate_json(body))


def _checked(read: Callable[[], JsonBody]) -> JsonBody:
    try:
        return read()
    except ValidationError as error:
        raise InvalidBody(detail=problems(error.errors())) from error


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, AotiServeError)
    return error_response(error)


async def _answer_defect(_: Request, error: Exception) -> Response:
    return internal_error(error)  # Starlette raises it again, and it is logged


async def _answer_unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_reply(f"{request.method} {shortened(request.url.path, 512)}: {error.detail}", error.status_code)


async def _answer_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(InvalidBody(detail=problems(error.errors())))
