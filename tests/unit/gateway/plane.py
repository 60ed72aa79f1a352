"""A gateway's data plane with one model, which is played."""

from __future__ import annotations

from typing import Any

from aoti_serve.errors import UnknownModel
from aoti_serve.gateway.figures.counted import GatewayFigures
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.gateway.in_flight import InFlight, ReadingBudget


class Plane:
    """A data plane of the model `m`."""

    names = ["m"]
    reason_not_ready: str | None = None

    def __init__(self, model: Any, max_reading_bytes: int) -> None:
        self.door = InFlight()
        self.budget = ReadingBudget(max_reading_bytes)
        self.figures = GatewayFigures([ModelFigures("m")])
        self._model = model

    def models(self) -> list[Any]:
        return [self._model]

    def model(self, name: str) -> Any:
        if name != "m":
            raise UnknownModel(name=name, known=self.names)
        return self._model
