"""Our lines are in Serve's log, whatever handlers Serve gives it, without Serve's line for each call."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from aoti_serve.cluster.serve_log import REFUSED, join_serve_log
from aoti_serve.errors import NothingStaged

SERVE, OURS = logging.getLogger("ray.serve"), logging.getLogger("aoti_serve")


@pytest.fixture
def joined() -> Iterator[None]:
    before = OURS.parent, SERVE.filters[:], SERVE.level
    join_serve_log()
    yield
    OURS.parent, SERVE.filters[:] = before[:2]
    SERVE.setLevel(before[2])


@pytest.mark.usefixtures("joined")
def test_our_lines_go_where_serves_go_now() -> None:
    for _ in range(2):  # Serve replaces its handlers with each change of its configuration
        written = io.StringIO()
        handler = logging.StreamHandler(written)
        SERVE.addHandler(handler)
        SERVE.setLevel(logging.INFO)
        logging.getLogger("aoti_serve.access").info("a request")
        SERVE.info("a call", extra={"serve_access_log": True})
        SERVE.info("an event")
        SERVE.removeHandler(handler)
        assert written.getvalue() == "a request\nan event\n"


@pytest.mark.parametrize(("error", "logged"), [(NothingStaged(), False), (RuntimeError("a defect"), True)])
@pytest.mark.usefixtures("joined")
def test_a_call_that_is_refused_leaves_no_traceback(
    error: Exception, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    SERVE.addHandler(caplog.handler)
    try:
        raise error
    except Exception:
        SERVE.exception(REFUSED)
    SERVE.removeHandler(caplog.handler)
    assert bool(caplog.records) is logged
