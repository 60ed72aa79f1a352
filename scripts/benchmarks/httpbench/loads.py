"""How much is asked of a server at once: the cells of the tables."""

from __future__ import annotations

from typing import NamedTuple

BATCH = 256  # rows, or for some peers requests, that every server may put in one run


class Load(NamedTuple):
    """How many connections ask all the time, with so many rows per request."""

    connections: int
    rows: int = 1

    @property
    def label(self) -> str:
        connections = f"{self.connections} connection{'s' if self.connections > 1 else ''}"
        return connections if self.rows == 1 else f"{connections} x {self.rows} rows"


BUSY, ALONE, FEW = Load(64), Load(1), Load(8)
# Rows for which a request costs little beside the model.
MANY_ROWS = (Load(8, 64), Load(1, 256), Load(1, 1024))
# The columns of a table each; 4,096 rows are 16 MB.
SWEEPS = {
    "connections, 1 row per request": (ALONE, FEW, BUSY, Load(256)),
    "rows per request, 8 connections": (FEW, Load(8, 8), Load(8, 64)),
    "rows per request, 1 connection": (ALONE, Load(1, 256), Load(1, 1024), Load(1, 4096)),
}
SWEPT = tuple(dict.fromkeys(load for loads in SWEEPS.values() for load in loads))
QUICK = (ALONE, FEW, BUSY, Load(8, 64))

HEAVY_BATCH, HEAVY_RUNNERS = 8, 2
# Every runner busy, and two batches more for each: of many requests, or each of them one.
HEAVY = {
    "single rows": Load(3 * HEAVY_BATCH * HEAVY_RUNNERS),
    "whole batches": Load(3 * HEAVY_RUNNERS, HEAVY_BATCH),
}
