"""Applications, as Serve sees them."""

from __future__ import annotations

import pytest

from aoti_serve.launcher.applications import ingress_among


@pytest.mark.parametrize(
    ("deployments", "ingress"),
    [
        (["digits-coordinator", "digits-replica", "gateway"], "gateway"),
        (["a-coordinator", "b-coordinator", "b-replica"], "b-replica"),
        (["other"], None),
        ([], None),
    ],
)
def test_who_answers_http(deployments: list[str], ingress: str | None) -> None:
    assert ingress_among(deployments) == ingress
