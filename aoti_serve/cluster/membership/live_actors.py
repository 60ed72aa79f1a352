"""Which processes are alive, by Ray's global control store, not by what Serve believes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import ray
from ray.actor import ActorHandle

from aoti_serve.cluster.ray_private import live_actors

PREFIX = "SERVE_REPLICA::"
NAMESPACE = "serve"


class LiveActors:
    """The Serve replicas of some deployments of one application. Its calls block for a millisecond or two.

    Serve's `broadcast()` and its status leave out replicas that are unavailable for a moment, and Serve's controller
    may be dead; the control store knows of every process until it has seen it end.
    """

    def __init__(self, application: str, deployments: Iterable[str]) -> None:
        self._prefixes = tuple(f"{PREFIX}{application}#{deployment}#" for deployment in deployments)
        self._nodes: dict[str, str] = {}  # where each one was seen last

    def alive(self) -> set[str]:
        """The replicas whose processes run, by their unique ids; those that only wait for a place are not among them.

        Raises if the control store cannot be asked now.
        """
        found = {
            actor["Name"].rpartition("#")[2]: actor["Address"]["NodeID"]
            for actor in live_actors()
            if actor["Name"].startswith(self._prefixes)
        }
        self._nodes |= found
        return set(found)

    def unreachable(self, members: Iterable[str]) -> set[str]:
        """Those of the members whose nodes the cluster cannot reach: it takes them for dead, and they may live."""
        nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return {member for member in members if member in self._nodes and self._nodes[member] not in nodes}

    def processes(self, members: Iterable[str]) -> dict[str, ActorHandle[Any]]:
        """Handles of those of the members that are alive, by unique id."""
        alive = {actor["Name"].rpartition("#")[2]: actor["Name"] for actor in live_actors()}
        names = {member: alive[member] for member in members if alive.get(member, "").startswith(self._prefixes)}
        found = {}
        for member, name in names.items():
            with suppress(ValueError):  # it has just ended
                found[member] = ray.get_actor(name, NAMESPACE)
        return found
