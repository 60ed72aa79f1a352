"""What all gateways of a model have counted, gathered in its coordinator."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from aoti_serve.protocol.statistics import VersionStatistics, summed_by_version


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
    """The newest figures of every gateway, also of those that have ended. Lost with this process.

    Since they are totals, a lost or repeated message does no harm.
    """

    def __init__(self) -> None:
        self._of: dict[str, dict[int, VersionStatistics]] = {}

    def exchange(self, told: Told) -> Gathered:
        own = {row.version: row for row in self._of.get(told.gateway, {}).values() if row.version in told.versions}
        for row in told.changed:
            if row.version not in own or row.progress >= own[row.version].progress:
                own[row.version] = row
        self._of[told.gateway] = own
        return Gathered(self._others(told.gateway) if told.asks else [], sorted(set(told.versions) - own.keys()))

    def _others(self, gateway: str) -> list[VersionStatistics]:
        return summed_by_version(row for name, rows in self._of.items() if name != gateway for row in rows.values())
