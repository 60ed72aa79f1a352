"""The short form of scripts/soak: a minute of everything at once, every answer checked."""

from __future__ import annotations

import pytest
from chaoslab.lab import compiled, laboratory
from chaoslab.soak.__main__ import soak


@pytest.mark.long
def test_nothing_is_lost_while_everything_happens_at_once() -> None:
    with compiled(megabytes=4) as package, laboratory(package, clients=1, grpc=True) as lab:
        report = soak(lab, seconds=90, sample_s=2)
    assert report["lost"] == 0, report["evidence"]
    assert report["requests"] > 100
    assert report["faults"]
    assert report["changes"]["committed"] > 0
    roles = {lived["role"] for lived in report["processes"]}
    assert {"the GCS", "raylet", "gateway", "replica", "Ray's dashboard agent"} <= roles, roles
