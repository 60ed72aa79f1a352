"""How many replicas a model needs: by the rows that wait for it or are being run, wherever they are.

Serve counts calls that are under way. But rows wait in the gateways, where they become batches: a call may be one row
or a full batch, and there are never many. So each batch tells its replica how many rows its gateway has in hand, and
replicas tell Serve.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

METRIC = "rows"
FORGOTTEN_S = 5.0  # a gateway that has sent nothing for so long has nothing in hand


class Load(NamedTuple):
    """A gateway's rows in hand, waiting or being run: its share of them for each replica."""

    gateway: str
    rows: float


class Loads:
    """The newest load of each gateway; lives in a replica."""

    def __init__(self) -> None:
        self._loads: dict[str, tuple[float, float]] = {}

    def note(self, load: Load) -> None:
        self._loads[load.gateway] = time.monotonic(), load.rows

    @property
    def rows(self) -> float:
        """Of all gateways, for this replica."""
        since = time.monotonic() - FORGOTTEN_S
        self._loads = {gateway: entry for gateway, entry in self._loads.items() if entry[0] > since}
        return sum(rows for _, rows in self._loads.values())


def by_rows(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Serve's autoscaling policy of a model's replicas: `target_ongoing_requests` rows for each.

    Runs in Serve's controller, which itself keeps to the bounds and waits out the delays.
    """
    metrics: Any = context.aggregated_metrics or {}
    config: Any = context.config
    rows = sum(metrics.get(METRIC, {}).values())
    return rows / config.get_target_ongoing_requests(), {}
