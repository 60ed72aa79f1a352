"""Who is alive, by the cluster's own books: Ray's global control store, not Serve's opinion of it."""

from __future__ import annotations

from collections.abc import Iterable
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

    def alive(self) -> set[str]:
        """The replicas whose processes run, by their unique ids; those that only wait for a place are not among them.

        Raises if the control store cannot be asked now.
        """
        names = [actor["Name"] for actor in live_actors()]
        return {name.rpartition("#")[2] for name in names if name.startswith(self._prefixes)}

    def processes(self) -> dict[str, ActorHandle[Any]]:
        """Handles of those that are alive, by unique id."""
        alive = self.alive()
        names = [
            entry["name"]
            for entry in ray.util.list_named_actors(all_namespaces=True)
            if entry["namespace"] == NAMESPACE and entry["name"].startswith(self._prefixes)
        ]
        ids = {name.rpartition("#")[2]: name for name in names}
        return {member: ray.get_actor(name, NAMESPACE) for member, name in ids.items() if member in alive}
