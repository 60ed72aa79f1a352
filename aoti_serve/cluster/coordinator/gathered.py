"""What all gateways of a model have counted, gathered in its coordinator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aoti_serve.protocol.statistics import VersionStatistics, summed_by_version


class Gathered(NamedTuple):
    """The answer to a gateway: the sum of the others, by version, and how many versions of its own are here."""

    others: list[VersionStatistics]
    held: int


class GatheredStatistics:
    """The newest figures of every gateway, also of those that have ended. Lost with this process.

    A gateway sends what has changed since it last did so, as totals, so that a lost or repeated message does no harm.
    If `held` is less than what it has sent, this coordinator is new, and the gateway sends everything.
    """

    def __init__(self) -> None:
        self._of: dict[str, dict[int, VersionStatistics]] = {}

    def exchange(self, gateway: str, changed: Sequence[VersionStatistics]) -> Gathered:
        own = self._of.setdefault(gateway, {})
        for row in changed:
            if row.version not in own or row.progress >= own[row.version].progress:
                own[row.version] = row
        others = [row for name, rows in self._of.items() if name != gateway for row in rows.values()]
        return Gathered(summed_by_version(others), len(own))
