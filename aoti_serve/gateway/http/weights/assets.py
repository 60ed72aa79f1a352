"""The route for assets, files that the processor reads: they are sent before the swap that names them."""

# No postponed annotations here: FastAPI could not resolve the ones that name a local guard.
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from aoti_serve.cluster.transfer.upload import UPLOAD_CHUNK_BYTES, rechunk
from aoti_serve.errors import BodyTooLarge, InvalidBody, shown_value
from aoti_serve.gateway.http.bodies import stream_body
from aoti_serve.gateway.http.responses import json_response
from aoti_serve.gateway.http.weights.door import AdminDoor, Admitted, headers_of
from aoti_serve.gateway.in_flight import BodyLimits
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.assets import MAX_ASSETS_BYTES

ASSET_BODY = BodyLimits(MAX_ASSETS_BYTES, "the most that assets take")


class OfferedAsset(Frozen):
    """A file that was sent: its sha256, by which a swap names it."""

    digest: str


def asset_routes(door: AdminDoor) -> APIRouter:
    """Its prefix is `/v2/models/{name}/weights`."""
    Admin = Annotated[Admitted, Depends(door.admit)]
    routes = APIRouter(tags=["weights"])

    @routes.post("/assets")
    async def assets(request: Request, asked: Admin) -> Response:
        try:
            return json_response(await offer(request, asked))
        except (InvalidBody, BodyTooLarge) as error:
            door.plane.note_refused(asked.served.name, "asset", asked.who, str(error))
            raise

    async def offer(request: Request, asked: Admitted) -> OfferedAsset:
        for name in request.query_params:
            raise InvalidBody(detail=f"query parameter {shown_value(name)}: assets take none: a swap names them")
        if not request.headers.get("content-type", "").startswith("application/octet-stream"):
            raise InvalidBody(detail="the Content-Type must be application/octet-stream with the bytes of a file")
        body = stream_body(request.receive, headers_of(request), ASSET_BODY)
        digest = await asked.weights.offer_asset(rechunk(body, UPLOAD_CHUNK_BYTES), asked.who)
        return OfferedAsset(digest=digest)

    return routes
