"""scripts/bench scale: the simulated transfer ends, and costs what it should."""

from __future__ import annotations

import math

from scale.transfer import CHUNKS, NODES, TransferSimulation

from aoti_serve.cluster.transfer.actor import NODE_WINDOW


def test_calls_and_memory_do_not_grow_with_the_nodes() -> None:
    few, many = TransferSimulation(NODES[0]).run(), TransferSimulation(NODES[2]).run()
    assert few.calls <= many.calls <= (CHUNKS + 1) / CHUNKS
    assert many.kept <= 2 * NODE_WINDOW
    assert many.put < 2 * CHUNKS
    assert many.finished < 1.2 * few.finished


def test_without_passing_on_a_transfer_takes_longer_the_more_nodes_there_are() -> None:
    assert TransferSimulation(100, math.inf).run().finished > 1.5 * TransferSimulation(100).run().finished
