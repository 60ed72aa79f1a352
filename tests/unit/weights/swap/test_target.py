"""What a report says of a member: whether it holds what is committed, and whether it has anything left to do."""

from __future__ import annotations

import pytest

from aoti_serve.weights.swap.target import Report, Staging, Target
from aoti_serve.weights.version import Committed, Version
from tests.unit.weights.swap.simulated_memory import receipt

VERSION = Version(number=8, digest="sha of 8")
COMMITTED = Committed(epoch=5, version=VERSION)
STAGING = Staging("s", Version(number=9, digest="sha of 9"))


def _replica(epoch: int, version: Version) -> Report:
    return Report("r", epoch=epoch, receipt=receipt("r", epoch, version))


@pytest.mark.parametrize(
    ("report", "holds"),
    [
        pytest.param(Report("r"), False, id="nothing is known of it"),
        pytest.param(Report("g", epoch=5), True, id="a gateway has no receipt"),
        pytest.param(Report("g", epoch=4), False, id="a gateway behind"),
        pytest.param(_replica(5, VERSION), True, id="a replica with the bytes"),
        pytest.param(_replica(4, VERSION), False, id="the same version, of an earlier commit"),
        pytest.param(_replica(5, VERSION.model_copy(update={"digest": "other"})), False, id="other bytes"),
        pytest.param(_replica(5, VERSION.model_copy(update={"number": 7})), False, id="another version"),
        pytest.param(_replica(5, VERSION.model_copy(update={"label": "named anew"})), True, id="another label"),
    ],
)
def test_one_holds_what_is_committed_by_its_epoch_and_its_receipt(report: Report, holds: bool) -> None:
    assert report.holds(COMMITTED) is holds


@pytest.mark.parametrize(
    ("report", "staging", "follows"),
    [
        pytest.param(Report("g", epoch=5), None, True, id="nothing to stage"),
        pytest.param(Report("g", epoch=5, staged="s"), STAGING, True, id="staged"),
        pytest.param(Report("g", epoch=5, failed="s"), STAGING, True, id="tried in vain"),
        pytest.param(Report("g", epoch=5), STAGING, False, id="not staged"),
        pytest.param(Report("g", epoch=5, staged="earlier", failed="other"), STAGING, False, id="other swaps"),
        pytest.param(Report("g", epoch=4, staged="s"), STAGING, False, id="staged, but behind"),
    ],
)
def test_one_follows_when_nothing_is_left_to_do(report: Report, staging: Staging | None, follows: bool) -> None:
    assert report.follows(Target(term=1, revision=1, committed=COMMITTED, staging=staging)) is follows
