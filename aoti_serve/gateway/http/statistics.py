"""The routes of Triton's extension `statistics`, and the live figures of a model."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.figures.exchange import all_statistics
from aoti_serve.gateway.figures.live import live_figures
from aoti_serve.gateway.http.responses import READ, json_response


def statistics_routes(plane: DataPlane) -> APIRouter:
    """Of one model, of one version, or of all models. They come before the routes of a model called `stats`."""
    routes = APIRouter(tags=["statistics"])

    @routes.api_route("/v2/models/stats", methods=READ)
    async def all_models() -> Response:
        return json_response({"model_stats": await all_statistics(model.statistics for model in plane.models())})

    @routes.api_route("/v2/models/{name}/stats", methods=READ)
    @routes.api_route("/v2/models/{name}/versions/{version}/stats", methods=READ)
    async def one_model(name: str, version: str | None = None) -> Response:
        return json_response({"model_stats": await plane.model(name).statistics.messages(version)})

    @routes.api_route("/v2/models/{name}/figures", methods=READ)
    async def figures(name: str) -> Response:
        return json_response(await live_figures(plane.model(name)))

    return routes
