"""Requests that schemathesis makes from the OpenAPI document, fitting and not, to a whole gateway over the network."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from aoti_serve.gateway.openapi.document import openapi_document
from aoti_serve.gateway.openapi.inference import DescribedModel
from aoti_serve.weights.version import GoldenFile
from tests.unit.gateway.http.gateway import NAME, SIGNATURE, TOKEN, VERSION, Coordinator
from tests.unit.gateway.http.listening import Client, listening
from tests.unit.gateway.http.test_weights_api import STATUS

UPLOAD = ("upload", SimpleNamespace(path="path", transfer=Coordinator()))
ANSWERS: dict[str, Any] = {"status": STATUS, "versions": [STATUS.current], "story": (), "open_upload": UPLOAD}
ANSWERS["offer_golden"] = GoldenFile(digest="a" * 64, nbytes=8, requests=1)
ANSWERS["offer_asset"] = "a" * 64
ANSWERS["relabel"] = {"stable": VERSION}
ANSWERS |= dict.fromkeys(("rollback", "swap_uri", "swap_upload", "expose", "promote", "withdraw"), STATUS)
UNENDING = f"/v2/models/{NAME}/weights/events"
# Whether data fit their shape, an adapter its settings, a text is a share, or 3 was written as 3.0, no schema can say.
BEYOND_SCHEMAS = ("/infer", "/weights", "/rollback", "/candidate", "/labels/{label}")
ANY_BYTES = ("/golden", "/assets")  # to a schema, no bytes are wrong
COUNT = pytest.mark.parametrize("count", [25, pytest.param(2500, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])

# A 504 is a deadline of the request's own, which may be a microsecond.
DEADLINES_PASS = schemathesis.Config.from_dict(
    {"checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", 504]}}}
)

load_all_checks()


def operations() -> Iterator[Any]:
    """Each operation as a parameter, with each way to make requests of it that there is.

    Tokens are left out: each request here has the right one, and a wrong one would be what is wrong with it.
    """
    document = openapi_document([DescribedModel(NAME, VERSION, SIGNATURE)])
    for methods in document["paths"].values():
        for described in methods.values():
            described.pop("security", None)
    found: Any = schemathesis.openapi.from_dict(document, config=DEADLINES_PASS)
    for result in found.get_all_operations():
        operation = result.ok()
        if operation.path != UNENDING:
            wrong = operation.body and not operation.path.endswith(ANY_BYTES)
            for mode in GenerationMode if wrong else [GenerationMode.POSITIVE]:
                yield pytest.param(operation, mode, id=f"{operation.label}-{mode.value}")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with listening() as (gateway, client):
        gateway.coordinator.answers |= ANSWERS
        yield client


@COUNT
@pytest.mark.parametrize(("operation", "mode"), list(operations()))
def test_an_operation_answers_as_it_says(client: Client, operation: Any, mode: GenerationMode, count: int) -> None:
    """No 5xx, a status and a body that the document has, and no request that does not fit is taken."""
    excluded: list[Any] = [positive_data_acceptance] if operation.path.endswith(BEYOND_SCHEMAS) else []
    with requests.Session() as session:

        @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            case.call_and_validate(
                base_url=client.url,
                headers={"Authorization": f"Bearer {TOKEN}"},
                session=session,
                excluded_checks=excluded,
            )

        ask()
    client.assert_good()
