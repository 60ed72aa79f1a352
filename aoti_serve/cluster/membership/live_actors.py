"""Which processes are alive, by Ray's global control store, not by what Serve believes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import ray

from aoti_serve.cluster.ray_private import actors_in

PREFIX = "SERVE_REPLICA::"
NAMESPACE = "serve"
KILL_S = 10.0  # a node that hears of it ends a process within 5 s


class LiveActors:
    """The Serve replicas of some deployments of one application. Its calls block for a millisecond or two.

    Serve's `broadcast()` and its status leave out replicas that are unavailable for a moment, and Serve's controller
    may be dead; the control store knows of every process until it has seen it end.
    """

    def __init__(self, application: str, deployments: Iterable[str]) -> None:
        self._prefixes = tuple(f"{PREFIX}{application}#{deployment}#" for deployment in deployments)

    def alive(self) -> dict[str, str]:
        """The replicas whose processes run, by their unique ids, and on which node; none that waits for a place.

        Raises if the control store cannot be asked now.
        """
        return {_member(actor): actor["Address"]["NodeID"] for actor in self._ours("ALIVE")}

    def doubtful(self, seconds: float) -> dict[str, float]:
        """Those that the cluster has taken for dead lately, and that may live: how many seconds ago that was.

        It could not reach their node then, or has told it just now to end them.
        """
        nodes, now = _reachable_nodes(), time.time()
        ages = {_member(actor): (now - actor["EndTime"] / 1e3, actor) for actor in self._ours("DEAD")}
        return {
            member: max(0.0, age)
            for member, (age, actor) in ages.items()
            if age < (KILL_S if actor["Address"]["NodeID"] in nodes else seconds)
        }

    def unreachable(self, members: Mapping[str, str]) -> set[str]:
        """Those of the members, each on the node that is named, whose node the cluster cannot reach."""
        nodes = _reachable_nodes()
        return {member for member, node in members.items() if node and node not in nodes}

    def kill(self, members: Iterable[str]) -> None:
        """End the processes of these members; those that have ended are none any more."""
        names = {_member(actor): actor["Name"] for actor in self._ours("ALIVE")}
        for member in members:
            if member in names:
                with suppress(ValueError):  # it has just ended
                    ray.kill(ray.get_actor(names[member], NAMESPACE))

    def _ours(self, state: str) -> list[dict[str, Any]]:
        return [actor for actor in actors_in(state) if actor["Name"].startswith(self._prefixes)]


def _member(actor: Mapping[str, Any]) -> str:
    name: str = actor["Name"]
    return name.rpartition("#")[2]


def _reachable_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
