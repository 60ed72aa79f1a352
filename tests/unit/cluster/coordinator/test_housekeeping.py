"""What a coordinator does every few seconds goes on, whatever fails in a round."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from aoti_serve.cluster.coordinator import housekeeping
from aoti_serve.cluster.coordinator.housekeeping import Housekeeping
from aoti_serve.cluster.coordinator.uploads import Uploads
from tests.unit.cluster.coordinator.rollout.test_rollouts import Trying
from tests.unit.cluster.coordinator.test_candidates import with_members

SOON_S = 10.0


class FailingTransfer:
    """Stands for the transfer actor: its first answer is an error that nobody expects."""

    def __init__(self) -> None:
        self.close_idle = self
        self.rounds = 0
        self.again = asyncio.Event()

    async def remote(self) -> None:
        self.rounds += 1
        if self.rounds == 1:
            raise OSError(116, "Stale file handle")
        self.again.set()


async def test_a_round_that_fails_is_logged_and_the_next_one_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(housekeeping, "HOUSEKEEPING_S", 0.0)
    transfer = FailingTransfer()
    async with with_members(Trying(tmp_path)) as made:
        keeper = Housekeeping(made.store, Uploads(made.store), transfer, made.changes, made.rollouts)
        keeping = asyncio.create_task(keeper.keep())
        second = asyncio.create_task(transfer.again.wait())
        await asyncio.wait([keeping, second], timeout=SOON_S, return_when=asyncio.FIRST_COMPLETED)
        second.cancel()
        assert not keeping.done(), "the coordinator's check_health would raise its error"
        assert transfer.rounds > 1
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
    assert "Stale file handle" in caplog.text
