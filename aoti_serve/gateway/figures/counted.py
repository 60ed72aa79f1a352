"""A request, from its arrival until it is counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import monotonic
from types import TracebackType

from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.gateway.figures.outcomes import outcome_of
from aoti_serve.protocol.messages import InferResponse

NO_MODEL = ""  # in place of a name that a client has made up: each name is a series in Prometheus


class GatewayFigures:
    """The figures of all models of one gateway, and of requests for none of them."""

    def __init__(self, models: Iterable[ModelFigures]) -> None:
        self.unknown = ModelFigures(NO_MODEL)
        self.models: Mapping[str, ModelFigures] = {figures.name: figures for figures in models}

    def request(self, protocol: str, model: str = NO_MODEL) -> CountedRequest:
        """A request that has arrived now."""
        return CountedRequest(self, protocol, model)

    def of(self, model: str) -> ModelFigures:
        return self.models.get(model, self.unknown)


class CountedRequest:
    """Counts a request when its block ends: answered if `response` is set, else by the error that ends the block.

    `model` may be set later, as soon as it is known.
    """

    __slots__ = ("_began", "_figures", "_protocol", "model", "response")

    def __init__(self, figures: GatewayFigures, protocol: str, model: str) -> None:
        self.model = model
        self.response: InferResponse | None = None
        self._figures = figures
        self._protocol = protocol
        self._began = monotonic()

    def __enter__(self) -> CountedRequest:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        figures, seconds = self._figures.of(self.model), monotonic() - self._began
        if error is not None:
            figures.note_unanswered(self._protocol, outcome_of(error), seconds)
        elif self.response is not None:
            figures.note_answered(self._protocol, self.response.model_version, self.response.rows, seconds)
