"""A driver that pins objects until every node's object store is full, says so, and holds them until it is ended.

python -m chaoslab.hog ADDRESS
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

PIECE = 4 * 2**20


@ray.remote(num_cpus=0)
class Hog:
    """Views of objects: what is mapped can neither be dropped nor spilled."""

    def fill(self, nbytes: int) -> int:
        self._views: list[Any] = [ray.get(ray.put(np.ones(PIECE, np.uint8))) for _ in range(nbytes // PIECE)]
        return len(self._views) * PIECE


def main(address: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    hog: Any = Hog
    filled = []
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            actor = hog.options(scheduling_strategy=here).remote()
            filled.append((actor, actor.fill.remote(int(node["Resources"]["object_store_memory"]))))
    print("full:", [ray.get(size) // 2**20 for _, size in filled], "MB on each node", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
