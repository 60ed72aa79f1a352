"""The clients for Python programs, where there is no cluster."""

from __future__ import annotations

import pytest
import ray

from aoti_serve import AsyncWeightsClient, WeightsClient
from aoti_serve.errors import Unavailable


@pytest.mark.parametrize("client", [WeightsClient, AsyncWeightsClient])
def test_outside_of_a_cluster_they_say_what_is_missing_and_start_none(
    client: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Unavailable, match=r"set RAY_ADDRESS, and RAY_AUTH_MODE=token"):
        client("digits")
    assert not ray.is_initialized()
