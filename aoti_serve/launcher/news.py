"""Differences between two views of a server, in words for its operator."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from aoti_serve.launcher.cluster.applications import last_line

RUNNING = "RUNNING"


class DeploymentReplicas(NamedTuple):
    """The replicas of one deployment: the wanted number, and the ids of those that run."""

    target: int
    running: frozenset[str]

    def __str__(self) -> str:
        return f"{len(self.running)} of {self.target} run"


class ServerView(NamedTuple):
    """Serve's report on some applications: the status and message of each, and the replicas of its deployments."""

    states: dict[str, tuple[str, str]]
    replicas: dict[tuple[str, str], DeploymentReplicas]


def view_of(details: Mapping[str, Any], names: Collection[str]) -> ServerView:
    """A view made from Serve's details of its instance."""
    found = {name: entry for name, entry in details.get("applications", {}).items() if name in names}
    states = {name: (_word(entry["status"]), str(entry["message"])) for name, entry in found.items()}
    replicas = {
        (name, deployment): DeploymentReplicas(
            entry.get("target_num_replicas") or 0, _running(entry.get("replicas", []))
        )
        for name, application in found.items()
        for deployment, entry in application["deployments"].items()
    }
    return ServerView(states, replicas)


def changes_between(before: ServerView, after: ServerView) -> list[str]:
    """One line per change, in this order: replicas that have gone, replicas that are back, states of applications."""
    return [*_replica_news(before, after), *_state_news(before, after)]


def _replica_news(before: ServerView, after: ServerView) -> Iterator[str]:
    for key, now in after.replicas.items():
        then = before.replicas.get(key)
        if then is None:
            continue
        lost = then.running - now.running
        fewer = then.target - now.target  # scaled down: these were told to go
        if len(lost) > max(fewer, 0):
            yield f"{key[1]}: {', '.join(sorted(lost))} {'is' if len(lost) == 1 else 'are'} gone; {now}"
        if len(now.running) >= now.target and (len(then.running) < then.target or (lost and fewer <= 0)):
            yield f"{key[1]}: {now} again"


def _state_news(before: ServerView, after: ServerView) -> Iterator[str]:
    for name, (state, message) in after.states.items():
        then = before.states.get(name, (state, ""))[0]
        if state == then:
            continue
        why = last_line(message)
        text = "runs again" if state == RUNNING else f"is {state}: {why}" if why else f"is {state}"
        yield f"application '{name}' {text}"


def _word(state: Any) -> str:
    """A status as a plain word; Serve's states are strings that print as something else."""
    return str(getattr(state, "value", state))


def _running(replicas: Collection[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(str(entry["replica_id"]) for entry in replicas if entry["state"] == RUNNING)
