"""What goes over a member's connection means the same at both ends."""

from __future__ import annotations

import pytest

from aoti_serve.address import Address
from aoti_serve.cluster.membership.wire import (
    report_bytes,
    report_of,
    reroute_bytes,
    reroute_of,
    target_bytes,
    target_of,
)
from aoti_serve.errors import LinkBroken, ReplicaFailed, UnknownTensor
from aoti_serve.weights.swap.target import Report, Staging, Target, TargetRevision
from aoti_serve.weights.version import Committed, Version
from tests.unit.weights.swap.simulated_memory import receipt

VERSION = Version(number=8, digest="sha of 8", label="new")
ADDRESS = Address("r1", "n", "/a/path", 2, b"\x00\xffkey", ("127.0.0.1", 4000))
REPORTS = [
    Report("g1"),
    Report("r1", "n", ADDRESS, turn=3, followed=TargetRevision(2, 5), runners=2, epoch=5, settled_epoch=4, staged="s"),
    Report("r1", runners=1, joining=True, leaving=True, epoch=5, receipt=receipt("r1", 5, VERSION)),
]


@pytest.mark.parametrize("report", REPORTS, ids=["gateway", "replica", "receipt"])
def test_a_report_arrives_as_it_was(report: Report) -> None:
    assert report_of(memoryview(report_bytes(report))) == report


def test_an_error_arrives_as_itself_and_one_that_is_none_of_ours_by_its_name() -> None:
    def arrived(error: BaseException) -> BaseException | None:
        return report_of(memoryview(report_bytes(Report("r1", failed="s", error=error)))).error

    ours, theirs = arrived(UnknownTensor(name="w")), arrived(ZeroDivisionError("by nothing"))
    assert isinstance(ours, UnknownTensor)
    assert ours.name == "w"
    assert isinstance(theirs, ReplicaFailed)
    assert str(theirs).count("ZeroDivisionError") == 1


@pytest.mark.parametrize("staging", [None, Staging("s", VERSION)])
def test_a_target_arrives_as_it_was(staging: Staging | None) -> None:
    committed = Committed(epoch=5, version=VERSION, previous=Version(number=7))
    target = Target(
        term=3, revision=9, committed=committed, settled_epoch=4, staging=staging, spread=True, labels={"a": 7}
    )
    assert target_of(memoryview(target_bytes(target))) == target


def test_routes_arrive_as_they_were() -> None:
    assert reroute_of(memoryview(reroute_bytes(True, [ADDRESS]))) == (True, (ADDRESS,), ())
    assert reroute_of(memoryview(reroute_bytes(False, [], ["r2"]))) == (False, (), ("r2",))


@pytest.mark.parametrize("message", [b"", b"{}", b"[]", b"nonsense", b'{"member": 1}', b"\xff\xfe"])
def test_what_is_none_breaks_the_connection(message: bytes) -> None:
    for read in (report_of, target_of, reroute_of):
        with pytest.raises(LinkBroken):
            read(memoryview(message))
