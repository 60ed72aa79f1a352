"""A request is counted once, when it ends."""

from __future__ import annotations

from contextlib import suppress

from aoti_serve.errors import InvalidBody
from aoti_serve.gateway.figures.counted import GatewayFigures
from aoti_serve.gateway.figures.model_figures import GRPC, HTTP, ModelFigures
from aoti_serve.gateway.figures.outcomes import RequestOutcome
from aoti_serve.protocol.messages import InferResponse


def test_an_answer_belongs_to_the_version_that_computed_it() -> None:
    figures = ModelFigures("m")
    figures.current = 3
    with GatewayFigures([figures]).request(HTTP, "m") as counted:
        counted.response = InferResponse("m", 2, None, rows=5)
    assert figures.requests == {(HTTP, 2, RequestOutcome.OK): 1}
    assert figures.versions[2].inference_count == 5
    assert figures.latency[HTTP].count == 1


def test_an_answer_that_could_not_be_written_has_failed() -> None:
    figures = ModelFigures("m")
    figures.current = 3
    with suppress(ZeroDivisionError), GatewayFigures([figures]).request(HTTP, "m") as counted:
        counted.response = InferResponse("m", 2, None)
        raise ZeroDivisionError
    assert figures.requests == {(HTTP, 3, RequestOutcome.FAILED): 1}


def test_a_name_that_a_client_makes_up_is_not_kept() -> None:
    figures = GatewayFigures([ModelFigures("m")])
    for name in ("letters", "numbers"):
        with suppress(InvalidBody), figures.request(GRPC) as counted:
            counted.model = name
            raise InvalidBody(detail="there is no such model")
    assert figures.unknown.requests == {(GRPC, None, RequestOutcome.INVALID): 2}
    assert list(figures.models) == ["m"]
