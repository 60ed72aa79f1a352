"""What is told of the changes of one model's weights: in the audit log, the metrics, the log and the status."""

from __future__ import annotations

import asyncio
import logging

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.metrics import SwapMetrics
from aoti_serve.cluster.coordinator.succession.leadership import Leadership
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.cluster.metrics.definitions import COORDINATOR_METRICS
from aoti_serve.cluster.metrics.export import MetricExport
from aoti_serve.cluster.status import Outcome
from aoti_serve.weights.audit import AttemptOutcome, AuditLog
from aoti_serve.weights.swap.target import Receipt

logger = logging.getLogger("ray.serve")
LOGGED = 50  # events of the story


class Outcomes:
    """Tells of attempts when they begin and when they end, in the coordinator's event loop. `last` is the last end."""

    def __init__(self, model: str, members: MemberServer, audit: AuditLog, leadership: Leadership) -> None:
        self._model = model
        self._members = members
        self._leadership = leadership
        self._audit = audit
        self._metrics = SwapMetrics(model, MetricExport(COORDINATOR_METRICS))
        self.last: Outcome | None = None

    async def note(self, attempt: Attempt, outcome: AttemptOutcome, error: BaseException | None) -> None:
        """Write a line of the audit log, and one of the log unless it has only begun."""
        facts = attempt.facts(outcome, error)
        if outcome != AttemptOutcome.BEGUN:
            self._tell(attempt, outcome, error)
        await asyncio.to_thread(self._audit.write, model=self._model, **facts)

    async def note_ended(self, attempt: Attempt, outcome: Outcome, error: BaseException | None) -> None:
        """Note the end of an attempt everywhere."""
        self.last = outcome
        self._metrics.ended(outcome)
        self.measure()
        self._members.touch()
        await self.note(attempt, outcome.outcome, error)

    def note_moved(self) -> None:
        """Count the bytes that replicas have moved for a change that is committed."""
        self._metrics.moved(sum(receipt.nbytes for receipt in self.receipts()))

    def explain(self, attempt: Attempt) -> None:
        """Log what has happened in the cluster before an attempt failed."""
        story = "\n".join(f"  {event}" for event in self._members.story()[-LOGGED:])
        logger.debug(f"model '{self._model}': before the end of {attempt.name}:\n{story}")

    def measure(self) -> None:
        """Export the metrics as they are now."""
        table = self._members.table
        joined = [report for report in table.reports if report.member in table.heard and not report.joining]
        superseded = self._leadership.status is not None
        self._metrics.export(table.target.committed, joined, superseded=superseded)

    def receipts(self) -> tuple[Receipt, ...]:
        """What each replica holds, by name."""
        receipts = (report.receipt for report in self._members.table.reports if report.receipt and not report.joining)
        return tuple(sorted(receipts, key=lambda receipt: receipt.replica))

    def _tell(self, attempt: Attempt, outcome: AttemptOutcome, error: BaseException | None) -> None:
        """One line of the log for the end of an attempt; the audit log has all of its facts."""
        number, epoch = attempt.version.number if attempt.version else None, self._members.table.target.committed.epoch
        extra = {"model": self._model, "weights_version": number, "epoch": epoch, "outcome": outcome}
        what = str(attempt.name) + ("" if number is None else f" to version {number}")
        why = "" if error is None else f": {error!r}"
        level = logging.INFO if error is None else logging.WARNING
        logger.log(level, f"model '{self._model}': {what}: {outcome}, epoch {epoch}{why}", extra=extra)
