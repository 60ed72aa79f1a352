"""Decides how many replicas and gateways there should be: by the rows and requests in hand.

Serve counts calls that are under way, and no request is one. Rows wait in the gateways, where they become batches: each
batch tells its replica how many rows its gateway has in hand, and replicas tell Serve. Gateways tell it how many
requests they have in hand.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

METRIC = "in_hand"
FORGOTTEN_S = 5.0  # a gateway that has sent nothing for so long has nothing in hand


class Loads:
    """The newest load of each gateway, in rows: its share for this replica. Lives in a replica."""

    def __init__(self) -> None:
        self._loads: dict[str, tuple[float, float]] = {}

    def note(self, gateway: str, rows: float) -> None:
        self._loads[gateway] = time.monotonic(), rows

    @property
    def rows(self) -> float:
        """The sum of all gateways, for this replica."""
        since = time.monotonic() - FORGOTTEN_S
        self._loads = {gateway: entry for gateway, entry in self._loads.items() if entry[0] > since}
        return sum(rows for _, rows in self._loads.values())


def by_load(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Serve's autoscaling policy of replicas and gateways: `target_ongoing_requests` rows or requests for each.

    Runs in Serve's controller, which itself keeps to the bounds and waits out the delays.
    """
    metrics: Any = context.aggregated_metrics or {}
    config: Any = context.config
    in_hand = sum(metrics.get(METRIC, {}).values())
    return in_hand / config.get_target_ongoing_requests(), {}
