"""The routes for swaps and rollbacks, and for what became of them. They translate, and call the coordinator."""

# No postponed annotations here: FastAPI could not resolve the ones that name a local guard.
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request
from pydantic import model_validator
from starlette.datastructures import QueryParams
from starlette.responses import Response, StreamingResponse

from aoti_serve.cluster.coordinator_client import CoordinatorClient
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.cluster.transfer.upload import UPLOAD_CHUNK_BYTES, rechunk
from aoti_serve.config import GatewayConfig
from aoti_serve.errors import BodyTooLarge, InvalidBody
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.http.bodies import stream_body
from aoti_serve.gateway.http.responses import json_response
from aoti_serve.gateway.http.weights.door import AdminDoor, Admitted, change_response, checked, headers_of, parsed
from aoti_serve.gateway.in_flight import BodyLimits
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.swap_options import SwapOptions, Uri, VersionNumber

_SEVERAL = ("rename", "drop")


class SwapBody(SwapOptions):
    """`POST /v2/models/{m}/weights` as JSON: a file under one of the model's `weights_roots`."""

    uri: Uri

    @model_validator(mode="before")
    @classmethod
    def _named(cls, body: Any) -> Any:
        if isinstance(body, dict) and "uri" not in body:
            raise ValueError(
                "`uri` is missing: the file under one of the model's `weights_roots`; or send the safetensors bytes "
                "themselves, as application/octet-stream"
            )
        return body

    @property
    def options(self) -> SwapOptions:
        return SwapOptions(**self.model_dump(exclude={"uri"}))


class RollbackBody(Frozen):
    """`POST /v2/models/{m}/weights/rollback`: the previous version if none is named."""

    version: VersionNumber | None = None


def swap_routes(door: AdminDoor, config: GatewayConfig) -> APIRouter:
    """The status, the versions, swaps and rollbacks; their prefix is `/v2/models/{name}/weights`."""
    uploads = BodyLimits(config.max_weights_bytes, "gateway.max_weights_bytes")
    Admin = Annotated[Admitted, Depends(door.admit)]
    routes = APIRouter(tags=["weights"])

    @routes.get("")
    async def status(asked: Admin) -> Response:
        return json_response(await asked.weights.status())

    @routes.get("/versions")
    async def versions(asked: Admin) -> Response:
        return json_response(await asked.weights.versions())

    @routes.get("/story")
    async def story(asked: Admin) -> Response:
        return json_response(await asked.weights.story())

    @routes.get("/events")
    async def events(asked: Admin) -> Response:
        return StreamingResponse(_events(door.plane, asked.weights), media_type="text/event-stream")

    @routes.post("")
    async def swap(request: Request, asked: Admin, wait: bool = True) -> Response:
        try:
            return change_response(await run_swap(request, asked, wait), wait)
        except (InvalidBody, BodyTooLarge) as error:  # the coordinator audits everything else, but has not seen this
            door.plane.note_refused(asked.served.name, "swap", asked.who, str(error))
            raise

    @routes.post("/rollback")
    async def rollback(request: Request, asked: Admin, wait: bool = True) -> Response:
        wanted = parsed(RollbackBody, await door.read(request, "wait") or b"{}")
        return change_response(await asked.weights.rollback(wanted.version, asked.who, wait), wait)

    async def run_swap(request: Request, asked: Admitted, wait: bool) -> WeightsStatus:
        if request.headers.get("content-type", "").startswith("application/octet-stream"):
            given = _given(request.query_params)
            options = checked(lambda: SwapOptions.model_validate(given), SwapOptions)
            body = stream_body(request.receive, headers_of(request), uploads)
            return await asked.weights.swap_bytes(rechunk(body, UPLOAD_CHUNK_BYTES), options, asked.who, wait)
        if not request.headers.get("content-type", "").startswith("application/json"):
            kinds = 'application/octet-stream with the safetensors bytes, or application/json with {"uri": ...}'
            raise InvalidBody(detail=f"the Content-Type must be {kinds}")
        wanted = parsed(SwapBody, await door.read(request, "wait"))
        return await asked.weights.swap_uri(wanted.uri, wanted.options, asked.who, wait)

    return routes


def _given(query: QueryParams) -> dict[str, str | list[str]]:
    """The options in a query; of a list each entry may be a parameter of its own."""
    several = {name: query.getlist(name) for name in _SEVERAL if len(query.getlist(name)) > 1}
    return {name: value for name, value in query.items() if name != "wait"} | several


async def _events(plane: DataPlane, weights: CoordinatorClient) -> AsyncIterator[bytes]:
    """Server-sent events: the status now and at every change, until this gateway takes its leave."""
    seen = -1
    while not plane.leaving:
        status = await weights.status(seen)
        if status.revision != seen:
            yield b"event: weights\ndata: " + orjson.dumps(status.model_dump()) + b"\n\n"
        else:
            yield b": nothing new\n\n"  # shows that both ends are alive
        seen = status.revision
