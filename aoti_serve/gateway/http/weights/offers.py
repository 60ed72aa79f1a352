"""The routes for files that are sent before the swap that names them: golden requests, assets of the processor."""

# No postponed annotations here: FastAPI could not resolve the ones that name a local guard.
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from aoti_serve.cluster.transfer.upload import UPLOAD_CHUNK_BYTES, rechunk
from aoti_serve.errors import BodyTooLarge, InvalidBody, shown_value
from aoti_serve.gateway.http.bodies import stream_body
from aoti_serve.gateway.http.responses import json_response
from aoti_serve.gateway.http.weights.door import AdminDoor, Admitted, headers_of
from aoti_serve.gateway.in_flight import BodyLimits
from aoti_serve.signature.golden.file import MAX_GOLDEN_BYTES
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.assets import MAX_ASSETS_BYTES
from aoti_serve.weights.version import GoldenFile

Body = AsyncIterator[bytes]


class OfferedAsset(Frozen):
    """A file that was sent: its sha256, by which a swap names it."""

    digest: str


class Offer(NamedTuple):
    """What is sent to a route of the name `path`: `action` in the audit, and how errors speak of it."""

    path: str
    action: str
    limits: BodyLimits
    takes_none: str
    content: str
    take: Callable[[Admitted, Body], Awaitable[Frozen]]


async def _golden(asked: Admitted, body: Body) -> GoldenFile:
    return await asked.weights.offer_golden(body, asked.who)


async def _asset(asked: Admitted, body: Body) -> OfferedAsset:
    return OfferedAsset(digest=await asked.weights.offer_asset(body, asked.who))


OFFERS = (
    Offer(
        *("golden", "golden", BodyLimits(MAX_GOLDEN_BYTES, "the most that golden requests take")),
        *("golden requests take none", "the safetensors bytes", _golden),
    ),
    Offer(
        *("assets", "asset", BodyLimits(MAX_ASSETS_BYTES, "the most that assets take")),
        *("assets take none: a swap names them", "the bytes of a file", _asset),
    ),
)


def offer_routes(door: AdminDoor) -> APIRouter:
    """Their prefix is `/v2/models/{name}/weights`."""
    routes = APIRouter(tags=["weights"])
    for offer in OFFERS:
        routes.post(f"/{offer.path}")(_route(door, offer))
    return routes


def _route(door: AdminDoor, offer: Offer) -> Callable[..., Awaitable[Response]]:
    Admin = Annotated[Admitted, Depends(door.admit)]

    async def offered(request: Request, asked: Admin) -> Response:
        try:
            return json_response(await offer.take(asked, _body(request, offer)))
        except (InvalidBody, BodyTooLarge) as error:
            door.plane.note_refused(asked.served.name, offer.action, asked.who, str(error))
            raise

    return offered


def _body(request: Request, offer: Offer) -> Body:
    for name in request.query_params:
        raise InvalidBody(detail=f"query parameter {shown_value(name)}: {offer.takes_none}")
    if not request.headers.get("content-type", "").startswith("application/octet-stream"):
        raise InvalidBody(detail=f"the Content-Type must be application/octet-stream with {offer.content}")
    return rechunk(stream_body(request.receive, headers_of(request), offer.limits), UPLOAD_CHUNK_BYTES)
