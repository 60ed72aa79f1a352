"""Online learning: an actor trains and pushes its weights; clients see the accuracy rise.

PYTHONPATH=examples python examples/online_learning/online_learning.py
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from serving import ask, serving

import aoti_serve
from aoti_serve.demo import digits

MODEL, PUSHES, EVERY_S = "learner", 8, 1.0


def make(folder: Path) -> None:
    """The digits' network, untrained."""
    net, inputs, shapes = digits.make_model()
    aoti_serve.export_package(net, inputs, folder / f"{MODEL}.pt2", dynamic_shapes=shapes)


class Trainer:
    """An actor of the server's own Ray cluster: it trains, and pushes what it has learnt every second."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._net, self._digits = digits.DigitsNet(), digits.load_images()[0]
        self._optimizer = torch.optim.Adam(self._net.parameters(), lr=2e-4)
        self._weights = aoti_serve.WeightsClient(MODEL)

    def learn(self, pushes: int) -> None:
        for epoch in range(1, pushes + 1):
            began = time.monotonic()
            digits.train_epoch(self._net, self._optimizer, self._digits)
            self._weights.swap(self._net.state_dict(), label=f"epoch {epoch}")
            time.sleep(max(0.0, began + EVERY_S - time.monotonic()))


def main() -> None:
    held_out = digits.load_images()[1]
    images, labels = held_out.images.numpy(), held_out.labels.numpy()
    with serving("online_learning", make) as client:
        import ray

        ray.init(log_to_driver=False)
        actor: Any = ray.remote(num_cpus=0)(Trainer)
        training, version, finished = actor.remote().learn.remote(PUSHES), 0, False
        while not finished:
            finished = bool(ray.wait([training], timeout=0.1)[0])
            answer = ask(client, MODEL, image=images)
            if answer.version != version:
                version = answer.version
                right = (answer.outputs["logits"].argmax(1) == labels).mean()
                print(f"version {version}: {right:6.1%} of {len(labels)} held-out images", flush=True)
        ray.get(training)  # raises what the trainer has


if __name__ == "__main__":
    main()
