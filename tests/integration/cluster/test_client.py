"""WeightsClient in a Ray job, where a deployment with the coordinator's name answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psutil
import pytest
from ray import serve

from aoti_serve import AsyncWeightsClient, WeightsClient
from aoti_serve.cluster.deployments import coordinator_of
from aoti_serve.errors import UnknownModel
from aoti_serve.weights.version import Version

VERSION = Version(number=3, digest="three")


@serve.deployment(name=coordinator_of("digits"))
class Coordinator:
    async def versions(self) -> list[Version]:
        return [VERSION]


@pytest.fixture(scope="module", autouse=True)
def coordinator(ray_cluster: None) -> Iterator[None]:
    serve.start(proxy_location="Disabled")
    serve.run(Coordinator.bind(), name="trained", route_prefix=None)  # type: ignore[attr-defined]
    yield
    serve.shutdown()  # type: ignore[no-untyped-call]


def test_five_hundred_clients_cost_no_more_than_one() -> None:
    process = psutil.Process()
    kept = [WeightsClient("digits", "trained")]
    assert kept[0].versions() == [VERSION]
    threads, files = threading.active_count(), process.num_fds()
    for _ in range(500):
        kept.append(WeightsClient("digits", "trained"))
        assert kept[-1].versions() == [VERSION]
    assert threading.active_count() <= threads
    assert process.num_fds() <= files


def test_a_client_that_is_closed_refuses_calls_and_leaves_others_alone() -> None:
    with WeightsClient("digits", "trained") as client, WeightsClient("digits", "trained") as other:
        client.close()
        with pytest.raises(ValueError, match="closed"):
            client.versions()
        assert other.versions() == [VERSION]
    with pytest.raises(ValueError, match="closed"):
        other.versions()


@pytest.mark.parametrize("client", [WeightsClient, AsyncWeightsClient])
@pytest.mark.parametrize(("model", "app"), [("nope", "trained"), ("digits", "nope")])
def test_a_model_that_is_not_served_is_named_beside_those_that_are(
    client: type[WeightsClient | AsyncWeightsClient], model: str, app: str
) -> None:
    with pytest.raises(UnknownModel, match=f"model '{app}/{model}' is not served here; available: trained/digits"):
        client(model, app)
