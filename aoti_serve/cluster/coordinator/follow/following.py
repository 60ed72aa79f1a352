"""Follows a place: looks at it again and again, and swaps to the newest whole version there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from aoti_serve.cluster.coordinator.changes import Changes
from aoti_serve.cluster.coordinator.follow.place_reader import PlaceReader
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.config import FollowConfig
from aoti_serve.errors import AotiServeError, NotSettled, StoreDamaged, UnreadableWeights
from aoti_serve.signature.name_rules import AS_IT_IS
from aoti_serve.weights.audit import MAX_TEXT, AttemptOutcome
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.sources.follow import Follow, FollowStatus, Tried, may_pass, pause
from aoti_serve.weights.sources.found import FoundVersion, Seen
from aoti_serve.weights.sources.places import defect_of, look_at
from aoti_serve.weights.sources.uri import shown_uri
from aoti_serve.weights.store.catalog import FOLLOWED
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import Version

logger = logging.getLogger("ray.serve")
TakeUri = Callable[[str, SwapOptions, Version], Version]
CONFLICT = 409  # another change is under way: no failure of the place


class SwapFrom(Protocol):
    """Swaps to what `take` makes of a URI, on the way of every other swap; returns when that has ended."""

    def __call__(self, take: TakeUri, uri: str, options: SwapOptions, who: str) -> Awaitable[WeightsStatus]: ...


class Following:
    """Follows the place of one model, in the coordinator's event loop; the place is read, and copied, in threads."""

    def __init__(self, config: FollowConfig, intake: Intake, changes: Changes, swap: SwapFrom) -> None:
        self._config = config
        self._intake = intake
        self._store = intake.store
        self._changes = changes
        self._swap = swap
        self._shown = shown_uri(config.uri)
        self._reader = PlaceReader(self._shown)
        self._rules: Follow | None = None
        self._stored: Tried | None = None
        self._seen: str | None = None
        self._failures = 0
        self._trouble = ""

    async def run(self) -> None:
        """Look, and swap; for ever, as a task."""
        while True:
            await self.poll()
            await asyncio.sleep(pause(self._config.every, self._failures))

    async def poll(self) -> None:
        """Look once, and swap at most once. Whatever fails is shown, and tried again."""
        try:
            if self._rules is None:
                self._stored = await asyncio.to_thread(self._remembered)
                self._rules = Follow(self._place, self._stored)
            await self._follow(self._rules)
        except Exception as error:
            self._failures += getattr(error, "http_status", 0) != CONFLICT
            self._show(str(error) if isinstance(error, AotiServeError) else f"{type(error).__name__}: {error}")
        else:
            self._failures = 0
            self._show("")

    async def _follow(self, rules: Follow) -> None:
        await self._look_after_candidate(rules)
        seen = await self._reader.read(self._look)
        newest = max(seen.versions, key=lambda version: version.order, default=None)
        self._seen = newest.name if newest else None
        for version in rules.see(seen.versions):
            if not self._changes.may_begin:
                return
            if await self._is_whole(rules, version, seen):
                await self._try(rules, version, seen)
                return

    async def _look_after_candidate(self, rules: Follow) -> None:
        """Remember what has become of one that was tried: an earlier coordinator may have left it, too."""
        given_up = self._changes.candidates.given_up
        why = given_up.why if given_up and rules.tried and given_up.version == rules.tried.number else None
        if (tried := rules.decided(self._changes.on_trial, self._changes.status().current.number, why)) is not None:
            await self._remember(tried)

    async def _is_whole(self, rules: Follow, version: FoundVersion, seen: Seen) -> bool:
        limit = self._intake.limits.max_weights_header_bytes
        defect = await self._reader.read(partial(defect_of, version, self._roots(seen), limit))
        if defect is not None:
            rules.note_broken(version)
            logger.warning(f"{self._who}: {version.label} is passed over until it changes: {defect}")
        return defect is None

    async def _try(self, rules: Follow, version: FoundVersion, seen: Seen) -> None:
        before, options = self._stored, SwapOptions(label=version.label)
        take = partial(self._take, rules, version, self._roots(seen))
        try:
            status = await self._swap(take, version.file.uri, options, self._who)
        except Exception as error:
            if may_pass(error):
                await self._remember(before)
                raise
            outcome = AttemptOutcome.COMMITTED if isinstance(error, NotSettled) else AttemptOutcome.FAILED
            await self._remember(rules.ended(version, outcome, str(error)[:MAX_TEXT] or type(error).__name__))
        else:
            await self._remember(rules.ended(version, *_outcome(status)))

    def _take(
        self,
        rules: Follow,
        version: FoundVersion,
        roots: tuple[str, ...],
        uri: str,
        options: SwapOptions,
        current: Version,
    ) -> Version:
        """Copy it, and see that it has not changed meanwhile. Remembered before anything can come of it: weights that
        end the coordinator must not end the next one, too. Runs in a thread.
        """
        taken = replace(self._intake, roots=roots).of_uri(uri, options, current)
        try:
            if not version.is_in(self._look().versions):
                raise UnreadableWeights(detail=f"{shown_uri(uri)} has changed while it was copied")
            self._write(rules.begun(version, taken.number))
        except BaseException:
            if taken != current:
                self._store.remove(taken)
            raise
        return taken

    @property
    def _place(self) -> str:
        """Names the place, and how its files are read: with other rules what has failed is tried again."""
        rules = self._intake.rules
        return self._shown if rules == AS_IT_IS else f"{self._shown} {rules.model_dump_json()}"

    @property
    def _who(self) -> str:
        return f"follow {self._shown}"

    def _look(self) -> Seen:
        return look_at(self._config.uri, self._intake.roots)

    def _roots(self, seen: Seen) -> tuple[str, ...]:
        return (*self._intake.roots, *seen.roots)

    def _remembered(self) -> Tried | None:
        try:
            return self._store.followed()
        except StoreDamaged as error:
            logger.error(f"{self._who}: the newest version is tried anew: {error}")
            return None

    async def _remember(self, tried: Tried | None) -> None:
        if tried != self._stored:
            await asyncio.to_thread(self._write, tried)

    def _write(self, tried: Tried | None) -> None:
        self._store.write_record(FOLLOWED, None if tried is None else tried.model_dump_json(indent=1).encode())
        self._stored = tried

    def _show(self, trouble: str) -> None:
        """Show what stands; a line of the log when the place fails in another way than before, or no more."""
        if trouble and trouble != self._trouble:
            logger.warning(f"{self._who}: {trouble}; looking again")
        elif self._trouble and not trouble:
            logger.info(f"{self._who}: it can be read again")
        self._trouble, tried = trouble, self._rules.tried if self._rules else None
        self._changes.show_follow(
            FollowStatus(
                uri=self._shown,
                last_seen=self._seen,
                last_tried=tried.name if tried else None,
                outcome=tried.outcome if tried else None,
                error=trouble or (tried.error if tried else None),
            )
        )


def _outcome(status: WeightsStatus) -> tuple[AttemptOutcome, None, int | None]:
    """What has come of a try that has not failed; of a candidate with its number, as it is not decided yet."""
    if status.candidate is not None:
        return AttemptOutcome.CANDIDATE, None, status.candidate.version.number
    return AttemptOutcome.UNCHANGED if status.unchanged else AttemptOutcome.COMMITTED, None, None
