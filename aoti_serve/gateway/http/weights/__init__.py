"""The routes of the weights API, all under `/v2/models/{name}/weights`, and all behind one door."""

from __future__ import annotations

from fastapi import APIRouter

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.http.weights.candidates import candidate_routes
from aoti_serve.gateway.http.weights.door import AdminDoor
from aoti_serve.gateway.http.weights.labels import label_routes
from aoti_serve.gateway.http.weights.offers import offer_routes
from aoti_serve.gateway.http.weights.swaps import swap_routes


def weights_routes(plane: DataPlane, access: Access, config: GatewayConfig) -> list[APIRouter]:
    """All routes of the weights API."""
    door = AdminDoor(plane, access, config)
    return [
        swap_routes(door, config),
        candidate_routes(door),
        offer_routes(door),
        label_routes(door),
    ]
