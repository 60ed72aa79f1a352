"""Changes of the labels that can be moved: durable, one at a time, audited, and known to every gateway."""

from __future__ import annotations

import asyncio
import logging

from aoti_serve.cluster.calls import spawn
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.errors import StoreDamaged
from aoti_serve.weights.audit import AttemptOutcome, AuditLog
from aoti_serve.weights.labels import LabelChange, VersionLabels
from aoti_serve.weights.store.store import Store

logger = logging.getLogger("ray.serve")


class Labelling:
    """Moves the labels of one model's versions, in the coordinator's event loop. A swap may run meanwhile."""

    def __init__(self, store: Store, members: MemberServer, audit: AuditLog) -> None:
        self._store = store
        self._members = members
        self._audit = audit
        self._alone = asyncio.Lock()

    async def publish_stored(self) -> None:
        """Tell members what an earlier coordinator has stored, but for labels whose versions are gone.

        Without labels if they cannot be read: that must not keep weights from answering.
        """
        try:
            labels, lost = await asyncio.to_thread(self._store.drop_lost_labels)
        except StoreDamaged as error:
            logger.error(f"model '{self._store.model}' has no labels: {error}")
            return
        for name, number in lost.items():
            logger.warning(f"model '{self._store.model}': label '{name}' is dropped: version {number} is not stored")
        self._members.relabel(labels.root)

    async def change(self, change: LabelChange, who: str) -> dict[str, int]:
        """Move a label; all labels afterwards. Goes on if its caller goes away: members must hear what is stored."""
        return await asyncio.shield(spawn(self._change(change, who)))

    async def _change(self, change: LabelChange, who: str) -> dict[str, int]:
        async with self._alone:
            try:
                before, after = await asyncio.to_thread(self._store.relabel, change)
            except Exception as error:
                await self._note(change, who, AttemptOutcome.FAILED, error=f"{type(error).__name__}: {error}")
                raise
            self._members.relabel(after.root)
            await self._note_done(change, who, before, after)
        return dict(after.root)

    async def _note_done(self, change: LabelChange, who: str, before: VersionLabels, after: VersionLabels) -> None:
        was, now = before.root.get(change.name), after.root.get(change.name)
        outcome = AttemptOutcome.UNCHANGED if was == now else AttemptOutcome.COMMITTED
        logger.info(f"model '{self._store.model}': label '{change.name}': {outcome}, from version {was} to {now}")
        await self._note(change, who, outcome, was=was)

    async def _note(
        self,
        change: LabelChange,
        who: str,
        outcome: AttemptOutcome,
        *,
        was: int | None = None,
        error: str | None = None,
    ) -> None:
        facts: dict[str, object] = {"who": who, "label": change.name, "outcome": outcome, "error": error}
        facts |= {"from": was, "to": change.version, "expected": change.expected}
        await asyncio.to_thread(self._audit.write, model=self._store.model, action="label", **facts)
