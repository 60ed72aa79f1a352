"""Who takes part: ours, and every peer in every sweep; all of them once more with the heavy model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from httpbench import ours, peers
from httpbench.contenders import BARE, OURS, V2_PATH, Contender, Endpoint
from httpbench.environments import say
from httpbench.heavy import Loop
from httpbench.loads import HEAVY, HEAVY_BATCH, HEAVY_RUNNERS, QUICK, SWEPT
from httpbench.peers import Task
from httpbench.servers import Failed

NAMES = (OURS, *peers.KNOWN, BARE, "heavy")


def contenders(names: Sequence[str], folder: Path, *, quick: bool) -> list[Contender]:
    """Those called so. Quick: fewer loads, and of each the setting that has always been its best."""
    task = Task(QUICK if quick else SWEPT, folder)
    found = ours.contenders(ours.Model.of(folder, "mlp"), task.loads, more=not quick) if OURS in names else []
    for settings in _peers(names, task):
        found += settings[:1] if quick else settings
    return found


def heavy_contenders(names: Sequence[str], folder: Path, module: Loop) -> list[Contender]:
    """With both runners, or two copies, or two processes, busy; for everybody a run is of 8 rows at most."""
    task = Task(tuple(HEAVY.values()), folder, f"loop:{module.times}", HEAVY_BATCH, HEAVY_RUNNERS, HEAVY_BATCH)
    found = []
    if OURS in names:
        model = ours.Model.of(folder, "heavy")._replace(num_runners=HEAVY_RUNNERS, max_batch_size=HEAVY_BATCH)
        endpoint = Endpoint(OURS, V2_PATH, "v2", tuple(task.loads))
        found.append(Contender(ours.server(f"{OURS}-heavy", model), (endpoint,)))
    return found + [contender for settings in _peers(names, task) for contender in settings]


def _peers(names: Sequence[str], task: Task) -> list[list[Contender]]:
    """By peer; one whose environment cannot be made is left out."""
    found = []
    for name in names:
        if name in peers.KNOWN:
            try:
                found.append(peers.KNOWN[name](task))
            except Failed as failure:
                say(f"  {name}: {failure}")
    return found
