"""What all gateways of a model have counted, gathered in its coordinator."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from typing import NamedTuple

from aoti_serve.protocol.statistics import KEPT_VERSIONS, VersionStatistics, summed_by_version


class Told(NamedTuple):
    """What a gateway tells of its figures: those that have changed since it last did so, as totals.

    `versions` are all that it has counted anything of. It `asks` for the figures of the others, or only tells.
    """

    gateway: str
    changed: list[VersionStatistics]
    versions: Collection[int]
    asks: bool


class Gathered(NamedTuple):
    """The answer: the sum of the others, by version, and the gateway's versions of which nothing is known here."""

    others: list[VersionStatistics]
    missing: list[int]


class GatheredStatistics:
    """The newest figures of every gateway that lives, and the sum of those that have ended, lost with this process.

    Since they are totals, a lost or repeated message does no harm. The sum has the `KEPT_VERSIONS` versions that have
    answered last.
    """

    def __init__(self) -> None:
        self._of: dict[str, dict[int, VersionStatistics]] = {}
        self._ended: dict[int, VersionStatistics] = {}

    def exchange(self, told: Told, living: Collection[str]) -> Gathered:
        """Keep what a gateway tells, if it is one of the `living`; any other one is asked to tell it again."""
        if ended := self._of.keys() - living:
            self._fold(ended)
        own: dict[int, VersionStatistics] = {}
        if told.gateway in living:  # else its end is known already, and what it has counted is in the sum
            own = self._of[told.gateway] = self._newest(told)
        return Gathered(self._others(told.gateway) if told.asks else [], sorted(set(told.versions) - own.keys()))

    def _newest(self, told: Told) -> dict[int, VersionStatistics]:
        own = {row.version: row for row in self._of.get(told.gateway, {}).values() if row.version in told.versions}
        for row in told.changed:
            if row.version not in own or row.progress >= own[row.version].progress:
                own[row.version] = row
        return own

    def _others(self, gateway: str) -> list[VersionStatistics]:
        rows = (own.values() for name, own in self._of.items() if name != gateway)
        return summed_by_version(chain(self._ended.values(), *rows))

    def _fold(self, ended: Collection[str]) -> None:
        rows = [row for name in ended for row in self._of.pop(name).values()]
        total = summed_by_version([*self._ended.values(), *rows])
        kept = sorted(total, key=lambda row: (row.last_inference, row.version))[-KEPT_VERSIONS:]
        self._ended = {row.version: row for row in kept}
