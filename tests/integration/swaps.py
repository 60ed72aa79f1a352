"""One way through a container's swaps, for the tests of a family of layers."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from aoti_serve.model.container import Container

Weights = dict[str, torch.Tensor]


def check_over_swaps(
    container: Container, versions: list[Weights], changed: Collection[str], check: Callable[[Weights], None]
) -> None:
    """Three versions, the way back, and a partial change of it by the first one: `check` is told what must answer."""
    for weights in versions:
        container.stage(weights)
        container.try_staged()
        container.commit()
        check(weights)
    container.rollback()
    check(versions[1])
    change = {name: versions[0][name] for name in changed}
    container.stage(change, partial=True)
    container.commit()
    check(versions[1] | change)
