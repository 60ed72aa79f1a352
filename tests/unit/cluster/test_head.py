"""What a client says of a cluster that it cannot join, at once."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import ray

from aoti_serve import AsyncWeightsClient, WeightsClient
from aoti_serve.cluster.head import join_named_cluster
from aoti_serve.errors import TryAgain

CLIENTS = pytest.mark.parametrize("client", [WeightsClient, AsyncWeightsClient])


@CLIENTS
def test_a_client_outside_of_a_cluster_starts_none(
    client: type[WeightsClient | AsyncWeightsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(TryAgain, match="has not joined a Ray cluster: set RAY_ADDRESS"):
        client("m")


def test_a_client_that_joins_prints_no_logs_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: bool(joined))
    monkeypatch.setattr(ray, "init", lambda **options: joined.append(options))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    join_named_cluster()
    join_named_cluster()
    assert joined == [{"log_to_driver": False}]


@CLIENTS
def test_a_client_names_an_address_where_nothing_listens(
    client: type[WeightsClient | AsyncWeightsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(TryAgain, match=f"RAY_ADDRESS: nothing listens at 127.0.0.1:{port}"):
        client("m")
