"""The routes of the weights API. They check the token, translate, and call the coordinator."""

# No postponed annotations here: FastAPI could not resolve the ones that name a local guard.
from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

import orjson
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response, StreamingResponse

from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.cluster.transfer.upload import UPLOAD_CHUNK_BYTES, rechunk
from aoti_serve.config import GatewayConfig, problems
from aoti_serve.errors import AotiServeError, BodyTooLarge, InvalidBody
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.http.bodies import read_body, stream_body
from aoti_serve.gateway.http.responses import json_response
from aoti_serve.gateway.in_flight import BodyLimits, Share
from aoti_serve.gateway.served_model import ServedModel
from aoti_serve.protocol.elements import shown_value
from aoti_serve.signature.golden.file import MAX_GOLDEN_BYTES
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.swap_options import SwapOptions, Uri, VersionNumber

OCTETS = "application/octet-stream"
GOLDEN_BODY = BodyLimits(MAX_GOLDEN_BYTES, "the most that golden requests take")
JsonBody = TypeVar("JsonBody", bound=BaseModel)


class SwapBody(SwapOptions):
    """`POST /v2/models/{m}/weights` as JSON: a file under one of the model's `weights_roots`."""

    uri: Uri

    @property
    def options(self) -> SwapOptions:
        return SwapOptions(**self.model_dump(exclude={"uri"}))


class RollbackBody(Frozen):
    """`POST /v2/models/{m}/weights/rollback`: the previous version if none is named."""

    version: VersionNumber | None = None


def weights_routes(plane: DataPlane, access: Access, config: GatewayConfig) -> APIRouter:
    """All routes of the weights API; their prefix is `/v2/models/{name}/weights`."""
    uploads = BodyLimits(config.max_weights_bytes, "gateway.max_weights_bytes")
    json = BodyLimits(config.max_json_bytes, "gateway.max_json_bytes")

    async def read(request: Request) -> bytes:
        with Share(plane.budget) as share:
            return bytes(await read_body(request.receive, _headers(request), json, share))

    async def admit(request: Request, name: str) -> ServedModel:
        try:
            connected = request.client.host if request.client else ""
            request.state.holder = access.check_admin(request.headers.get("authorization"), connected)
        except AotiServeError as error:
            plane.note_refused(name, f"{request.method} {request.url.path}", _address(request), str(error))
            raise
        return plane.model(name)

    Admin = Annotated[ServedModel, Depends(admit)]

    def who(request: Request, _: Admin) -> str:
        return f"{request.state.holder} from {_address(request)}"

    Who = Annotated[str, Depends(who)]
    routes = APIRouter(tags=["weights"])

    @routes.get("")
    async def status(served: Admin) -> Response:
        return json_response(await served.weights.status())

    @routes.get("/versions")
    async def versions(served: Admin) -> Response:
        return json_response(await served.weights.versions())

    @routes.get("/story")
    async def story(served: Admin) -> Response:
        return json_response(await served.weights.story())

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

    @routes.post("/golden")
    async def golden(request: Request, served: Admin, who: Who) -> Response:
        _refuse_options(request)
        try:
            _check_kind(request, OCTETS)
            body = stream_body(request.receive, _headers(request), GOLDEN_BODY)
            found = await served.weights.offer_golden(rechunk(body, UPLOAD_CHUNK_BYTES), who)
        except (InvalidBody, BodyTooLarge) as error:
            plane.note_refused(served.name, "golden", who, str(error))
            raise
        return json_response(found)

    @routes.post("/rollback")
    async def rollback(request: Request, served: Admin, who: Who, wait: bool = True) -> Response:
        _refuse_options(request)
        wanted = _parsed(RollbackBody, await read(request) or b"{}")
        return _change_response(await served.weights.rollback(wanted.version, who, wait), wait)

    async def run_swap(request: Request, served: ServedModel, who: str, wait: bool) -> WeightsStatus:
        if _kind(request).startswith(OCTETS):
            asked = {name: value for name, value in request.query_params.items() if name != "wait"}
            options = _checked(lambda: SwapOptions.model_validate(asked))
            body = stream_body(request.receive, _headers(request), uploads)
            return await served.weights.swap_bytes(rechunk(body, UPLOAD_CHUNK_BYTES), options, who, wait)
        _check_kind(request, "application/json", f', or {OCTETS}: {{"uri": ...}}, or the safetensors bytes')
        _refuse_options(request)
        wanted = _parsed(SwapBody, await read(request))
        return await served.weights.swap_uri(wanted.uri, wanted.options, who, wait)

    return routes


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "")


def _check_kind(request: Request, kind: str, more: str = "") -> None:
    if not _kind(request).startswith(kind):
        raise InvalidBody(detail=f"the Content-Type must be {kind}{more}")


def _headers(request: Request) -> dict[bytes, bytes]:
    return dict(request.scope["headers"])


def _address(request: Request) -> str:
    """The address of the client, and the one for which a proxy asks."""
    connected = request.client.host if request.client else "unknown"
    forwarded = request.headers.get("x-forwarded-for")
    return f"{connected} for {forwarded}" if forwarded else connected


def _refuse_options(request: Request) -> None:
    """Raise InvalidBody for options in the query of a request that has them in its JSON: they would be passed over."""
    for name in request.query_params.keys() - {"wait"}:
        raise InvalidBody(detail=f"query parameter {shown_value(name)}: it belongs into the JSON of the body")


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
    return _checked(lambda: kind.model_validate_json(body, strict=True))  # else true would be version 1


def _checked(read: Callable[[], JsonBody]) -> JsonBody:
    try:
        return read()
    except ValidationError as error:
        raise InvalidBody(detail=problems(error.errors())) from error
