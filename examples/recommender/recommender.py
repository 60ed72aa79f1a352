"""A recommender whose tables are large: only the rows that training has touched are pushed.

PYTHONPATH=examples python examples/recommender/recommender.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from serving import ask, serving
from torch import Tensor, nn
from torch.nn import functional

import aoti_serve

MODEL, USERS, ITEMS, WIDTH = "recommender", 20_000, 50_000, 64
PUSHES, BATCHES, BATCH = 5, 20, 32


class Recommender(nn.Module):
    """How much a user likes an item: INT64 [batch] of each to `score`, FP32 [batch]."""

    def __init__(self, *, sparse: bool = False) -> None:
        super().__init__()
        self.users = nn.Embedding(USERS, WIDTH, sparse=sparse)
        self.items = nn.Embedding(ITEMS, WIDTH, sparse=sparse)

    def forward(self, user: Tensor, item: Tensor) -> dict[str, Tensor]:
        return {"score": (self.users(user) * self.items(item)).sum(-1) / WIDTH**0.5}


def make(folder: Path) -> None:
    batch, ids = torch.export.Dim("batch", min=1, max=4096), torch.zeros(2, dtype=torch.int64)
    shapes = {"user": {0: batch}, "item": {0: batch}}
    package = folder / f"{MODEL}.pt2"
    aoti_serve.export_package(Recommender().eval(), {"user": ids, "item": ids}, package, dynamic_shapes=shapes)


def clicks(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Users, items, and whether they were clicked: here, even users like even items."""
    users = torch.randint(USERS, (BATCH,), generator=generator)
    items = torch.randint(ITEMS, (BATCH,), generator=generator)
    return users, items, ((users + items) % 2 == 0).float()


def learn(net: Recommender, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some batches of clicks; the users and the items in them, sorted, each once."""
    seen = []
    for _ in range(BATCHES):
        users, items, clicked = clicks(generator)
        optimizer.zero_grad()
        torch.autograd.backward(functional.binary_cross_entropy_with_logits(net(users, items)["score"], clicked))
        optimizer.step()
        seen.append((users, items))
    return each_once([users for users, _ in seen]), each_once([items for _, items in seen])


def each_once(ids: list[Tensor]) -> Tensor:
    """In order, as deltas want them."""
    return torch.from_numpy(np.unique(torch.cat(ids).numpy()))


def main() -> None:
    generator = torch.manual_seed(0)
    net = Recommender(sparse=True)
    optimizer = torch.optim.SparseAdam(net.parameters(), lr=0.05)  # Adam would move rows that nobody has touched
    whole = sum(table.nbytes for table in net.state_dict().values())
    with serving("recommender", make) as client:
        weights = aoti_serve.WeightsClient(MODEL)
        base = weights.swap(net.state_dict(), label="whole").current
        print(f"version {base.number}: {USERS + ITEMS:,} rows, {whole / 1e6:.2f} MB", flush=True)
        for push in range(PUSHES):
            rows = dict(zip(("users.weight", "items.weight"), learn(net, optimizer, generator), strict=True))
            tables = net.state_dict()
            changes = {name: aoti_serve.RowChanges(touched, tables[name][touched]) for name, touched in rows.items()}
            base = weights.swap_delta(changes, f"push {push}", base=base).current
            sent = sum(change.rows.nbytes + change.values.nbytes for change in changes.values())
            count = sum(map(len, rows.values()))
            part = f"{count:,} rows, {sent / 1e6:.2f} MB, {sent / whole:.1%} of the whole"
            users, items, _ = clicks(generator)
            answer = ask(client, MODEL, user=users.numpy(), item=items.numpy())
            error = np.abs(answer.outputs["score"] - net(users, items)["score"].detach().numpy()).max()
            print(f"version {answer.version}: {part}; answers as the trainer's own, within {error:.0e}", flush=True)


if __name__ == "__main__":
    main()
