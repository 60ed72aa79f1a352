"""Who may use the weights API, and how its requests are read and answered."""

# No postponed annotations here: FastAPI could not resolve the ones that name a local guard.
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from aoti_serve.cluster.coordinator_client import CoordinatorClient
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AotiServeError, InvalidBody, problems, shown_value
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.http.bodies import read_body
from aoti_serve.gateway.http.responses import json_response
from aoti_serve.gateway.in_flight import BodyLimits, Share
from aoti_serve.gateway.served_model import ServedModel

JsonBody = TypeVar("JsonBody", bound=BaseModel)


class Admitted(NamedTuple):
    """An admitted request: the model that it is about, that model's coordinator, and who asks for what."""

    served: ServedModel
    weights: CoordinatorClient
    who: str


class AdminDoor:
    """The door of the weights API: it checks the token of every request, and reads its body.

    A route depends on `admit`.
    """

    def __init__(self, plane: DataPlane, access: Access, config: GatewayConfig) -> None:
        self.plane = plane
        self._access = access
        self._json = BodyLimits(config.max_json_bytes, "gateway.max_json_bytes")

    async def admit(self, request: Request, name: str) -> Admitted:
        """The model, and who asks, with an admin token. Raises what `Access.check_admin` does, or UnknownModel."""
        connected = request.client.host if request.client else ""
        try:
            holder = self._access.check_admin(request.headers.get("authorization"), connected)
        except AotiServeError as error:
            self.plane.note_refused(name, f"{request.method} {request.url.path}", _address(request), str(error))
            raise
        served = self.plane.model(name)
        return Admitted(served, served.weights, f"{holder} from {_address(request)}")

    async def read(self, request: Request, *in_query: str) -> bytes:
        """The JSON of a request that has its options there, and only those named `in_query` in its query."""
        for name in request.query_params.keys() - {*in_query}:  # they would be passed over
            raise InvalidBody(detail=f"query parameter {shown_value(name)}: it belongs into the JSON of the body")
        with Share(self.plane.budget) as share:
            return bytes(await read_body(request.receive, headers_of(request), self._json, share))


def headers_of(request: Request) -> dict[bytes, bytes]:
    return dict(request.scope["headers"])


def change_response(status: WeightsStatus, wait: bool) -> Response:
    """The response to a change: 200 if it has ended, 202 if it has only begun."""
    return json_response(status, 200 if wait else 202)


def parsed(kind: type[JsonBody], body: bytes) -> JsonBody:
    """The body as a value. Raises InvalidBody."""
    return checked(lambda: kind.model_validate_json(body, strict=True), kind)  # else true would be version 1


def checked(read: Callable[[], JsonBody], kind: type[JsonBody] | None = None) -> JsonBody:
    """What `read` makes of a request, of this kind if one is named. Raises InvalidBody."""
    try:
        return read()
    except ValidationError as error:
        raise InvalidBody(detail=problems(error.errors(), kind)) from error


def _address(request: Request) -> str:
    """The address of the client, and the one for which a proxy asks."""
    connected = request.client.host if request.client else "unknown"
    forwarded = request.headers.get("x-forwarded-for")
    return f"{connected} for {forwarded}" if forwarded else connected
