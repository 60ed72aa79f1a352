"""The routes of a candidate: exposed, promoted, withdrawn. They translate, and call the coordinator."""

# No postponed annotations here: FastAPI could not resolve the ones that name a local guard.
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from aoti_serve.gateway.http.weights.door import AdminDoor, Admitted, change_response, parsed
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.swap_options import ExposureOptions


class NoOptions(Frozen):
    """The body of a request that leaves nothing to choose."""


def candidate_routes(door: AdminDoor) -> APIRouter:
    """What becomes of a candidate; their prefix is `/v2/models/{name}/weights`."""
    Admin = Annotated[Admitted, Depends(door.admit)]
    routes = APIRouter(tags=["weights"])

    @routes.post("/candidate")
    async def expose(request: Request, asked: Admin) -> Response:
        wanted = parsed(ExposureOptions, await door.read(request) or b"{}")
        return change_response(await asked.weights.expose(wanted, asked.who), wait=True)

    @routes.post("/promote")
    async def promote(request: Request, asked: Admin, wait: bool = True) -> Response:
        parsed(NoOptions, await door.read(request, "wait") or b"{}")
        return change_response(await asked.weights.promote(asked.who, wait), wait)

    @routes.post("/withdraw")
    async def withdraw(request: Request, asked: Admin, wait: bool = True) -> Response:
        parsed(NoOptions, await door.read(request, "wait") or b"{}")
        return change_response(await asked.weights.withdraw(asked.who, wait), wait)

    return routes
