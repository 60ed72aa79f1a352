"""Which replica gets a batch: the one with the fewest batches, as far as this gateway knows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import FIFOMixin, RequestRouter


class FewestBatches(FIFOMixin, RequestRouter):
    """Serve runs it in each gateway, for the handle of a model's replicas.

    Serve's own router compares two of them, drawn at random: with many replicas it sends batches to busy ones while
    others idle. Here a gateway has few calls under way, each of them long; looking at all replicas costs nothing.
    """

    async def choose_replicas(self, candidate_replicas: Sequence[Any], pending_request: Any = None) -> list[list[Any]]:
        """The one replica to try; Serve's queue lengths are its own counts, corrected by each answer."""
        if not candidate_replicas:
            return []
        return [[min(candidate_replicas, key=lambda replica: (self._batches(replica), random.random()))]]

    def _batches(self, replica: Any) -> int:
        return self.replica_queue_len_cache.get(replica.replica_id) or 0
