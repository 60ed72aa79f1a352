"""The route `/`: who answers here, and where to go on. A browser is led to a page."""

# No postponed annotations here: FastAPI could not resolve those of local functions.
from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from aoti_serve import __version__
from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.http.responses import READ, json_response


def root_routes(config: GatewayConfig) -> APIRouter:
    """`/`, also behind a prefix and without the slash at its end. It tells nothing of models, and asks for no token."""
    routes = APIRouter(tags=["server"])
    pages = [page for page, shown in (("console", config.console), ("docs", config.docs)) if shown]

    async def root(request: Request) -> Response:
        if pages and "text/html" in request.headers.get("accept", ""):
            # Relative: a proxy may have put a prefix before all routes.
            here = request.scope["path"].rpartition("/")[2]
            return RedirectResponse(f"{here}/{pages[0]}" if here else pages[0], headers=_VARIES)
        prefix = request.scope.get("root_path", "")
        places = {page: f"{prefix}/{page}" for page in pages} | {"models": f"{prefix}/v2/models"}
        response = json_response({"name": "aoti-serve", "version": __version__, "protocol": f"{prefix}/v2", **places})
        response.headers.update(_VARIES)
        return response

    for path in ("/", ""):  # the second one is all that is left of a prefix
        routes.add_api_route(path, root, methods=READ)
    return routes


_VARIES = {"vary": "Accept"}
