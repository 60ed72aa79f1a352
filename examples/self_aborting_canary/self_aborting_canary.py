"""A bad version that withdraws itself: a canary, a shadow, and a rule.

PYTHONPATH=examples python examples/self_aborting_canary/self_aborting_canary.py
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import torch
from safetensors.torch import save_file
from serving import ask, client_of, serving

import aoti_serve
from aoti_serve.demo import digits

MODEL, SPOILT, EPOCHS, CLIENTS = "canary", "spoilt.safetensors", 8, 4


def make(folder: Path) -> None:
    """The digits' network, trained; spoilt.safetensors has each class called by the name of the next."""
    torch.manual_seed(0)
    net, inputs, shapes = digits.make_model()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        digits.train_epoch(net, optimizer, digits.load_images()[0])
    aoti_serve.export_package(net, inputs, folder / f"{MODEL}.pt2", dynamic_shapes=shapes)
    parts = ("classify.weight", "classify.bias")
    save_file(net.state_dict() | {name: net.state_dict()[name].roll(1, 0) for name in parts}, folder / SPOILT)


class Clients:
    """Threads that ask for one image after the other; `answers` counts by version, `right` those that were right."""

    def __init__(self, client: httpx.Client) -> None:
        self.answers: Counter[int] = Counter()
        self.right: Counter[int] = Counter()
        self._done = threading.Event()
        url = str(client.base_url)
        self._threads = [threading.Thread(target=self._ask, args=(url, number)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str, number: int) -> None:
        images, labels = digits.load_images()[1]
        place = number
        with client_of(url) as client:
            while not self._done.is_set():
                row = place % len(labels)
                answer = ask(client, MODEL, key=f"image {row}", image=images[row : row + 1].numpy())
                self.answers[answer.version] += 1
                self.right[answer.version] += int(answer.outputs["logits"].argmax()) == int(labels[row])
                place += CLIENTS


def main() -> None:
    with serving("self_aborting_canary", make) as client:
        weights = aoti_serve.WeightsClient(MODEL)
        clients = Clients(client)
        try:
            bad = weights.swap(Path("var/examples/self_aborting_canary") / SPOILT, label="spoilt").candidate
            assert bad is not None
            print(f"version {bad.version.number} is a candidate, and answers some of the requests", flush=True)
            while not (rollout := weights.status().rollout) or not rollout.outcome:
                time.sleep(0.2)
        finally:
            clients.stop()
        print(f"rollout {rollout.outcome}, in step {rollout.step}: {rollout.reason}")
        for version, count in sorted(clients.answers.items()):
            right = clients.right[version] / count
            print(f"version {version}: {count} answers, {right:.1%} of them right")
        print(f"version {weights.status().current.number} answers")


if __name__ == "__main__":
    main()
