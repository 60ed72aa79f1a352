"""The routes for labels that can be moved. They translate, and call the coordinator."""

# No postponed annotations here: FastAPI could not resolve the ones that name a local guard.
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from aoti_serve.errors import InvalidBody
from aoti_serve.gateway.http.responses import json_response
from aoti_serve.gateway.http.weights.door import AdminDoor, Admitted, checked, parsed
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.labels import ExpectedVersion, LabelChange, expectation
from aoti_serve.weights.swap_options import VersionNumber


class LabelBody(Frozen):
    """`PUT /v2/models/{m}/weights/labels/{label}`: the version that it names from now on.

    `expected` is the version that it must name until now, null if it must not be there; left out, it may name any.
    """

    version: VersionNumber
    expected: ExpectedVersion = "any"


def label_routes(door: AdminDoor) -> APIRouter:
    """To list, move and delete labels; their prefix is `/v2/models/{name}/weights`. All answer with all labels."""
    Admin = Annotated[Admitted, Depends(door.admit)]
    routes = APIRouter(tags=["weights"])

    @routes.get("/labels")
    async def labels(asked: Admin) -> Response:
        return json_response((await asked.weights.status()).labels)

    @routes.put("/labels/{label}")
    async def move(request: Request, label: str, asked: Admin) -> Response:
        body = parsed(LabelBody, await door.read(request))
        change = checked(lambda: LabelChange(name=label, version=body.version, expected=body.expected))
        return json_response(await asked.weights.relabel(change, asked.who))

    @routes.delete("/labels/{label}")
    async def delete(request: Request, label: str, asked: Admin) -> Response:
        if await door.read(request, "expected"):
            raise InvalidBody(detail="a label is deleted without a body; ?expected= is part of the address")
        expected = expectation(request.query_params.get("expected", "any"))
        change = checked(lambda: LabelChange.model_validate({"name": label, "version": None, "expected": expected}))
        return json_response(await asked.weights.relabel(change, asked.who))

    return routes
