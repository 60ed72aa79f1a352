"""Watching a running server, and reporting to its operator what happens to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from aoti_serve.cluster.ray_private import actors_in
from aoti_serve.launcher import ProgressLog
from aoti_serve.launcher.cluster.applications import instance_details
from aoti_serve.launcher.cluster.messages import last_line, news_among, said
from aoti_serve.launcher.processes.background import in_background

RUNNING = "RUNNING"
SILENT_LOOKS = 3  # looks without an answer, before that is reported


class DeploymentReplicas(NamedTuple):
    """The replicas of one deployment: the wanted number, and the ids of those that run.

    `whole` is how many ran when as many as were wanted did, the last time; None if that is not known.
    """

    target: int
    running: frozenset[str]
    whole: int | None = None

    @property
    def complete(self) -> bool:
        return len(self.running) == self.target

    def __str__(self) -> str:
        return f"{len(self.running)} of {self.target} run"


class ServerView(NamedTuple):
    """Serve's report on some applications: the status and message of each, the replicas of its deployments, and what
    Serve says of those.

    `starved` has what Ray says of each replica that it has ended because a node was low on memory, by the replica's id.
    """

    states: dict[str, tuple[str, str]]
    replicas: dict[tuple[str, str], DeploymentReplicas]
    messages: dict[tuple[str, str], str] = {}
    starved: dict[str, str] = {}

    def after(self, before: ServerView) -> ServerView:
        """This view, with what only the one before it knows."""
        then = before.replicas
        known = {
            key: now._replace(whole=then[key].whole) if key in then and not now.complete else now
            for key, now in self.replicas.items()
        }
        return self._replace(replicas=known)


class ServerMonitor:
    """Looks at a server again and again, and reports each change.

    Serve is asked in a thread, since a failing cluster may answer after minutes or never. `first` is the view of the
    server when it became ready; differences from it are reported.
    """

    def __init__(self, names: Collection[str], log: ProgressLog, first: ServerView) -> None:
        self._names = names
        self._log = log
        self._view = first
        self._asked: Future[ServerView] | None = None
        self._silent = 0

    def look(self) -> bool:
        """Process the last answer and ask again. Returns true while at least one of the applications exists."""
        if self._asked is not None and not self._asked.done():
            self._note_silence("it does not answer")
            return bool(self._view.states)
        if self._asked is not None:
            self._take_in(self._asked)
        self._asked = in_background(lambda: view_now(self._names))
        return bool(self._view.states)

    def _take_in(self, answer: Future[ServerView]) -> None:
        if error := answer.exception():  # any error of Ray: the cluster is failing
            self._note_silence(f"{type(error).__name__}: {error}".splitlines()[0])
            return
        if self._silent >= SILENT_LOOKS:
            self._log.say("Serve answers again")
        self._silent = 0
        now = answer.result().after(self._view)
        for text in changes_between(self._view, now):
            self._log.say(text)
        self._view = now

    def _note_silence(self, why: str) -> None:
        self._silent += 1
        if self._silent == SILENT_LOOKS:
            self._log.say(f"Serve cannot be asked how the server is: {why}")


def view_now(names: Collection[str]) -> ServerView:
    """The present view of these applications, as Serve reports it."""
    view = view_of(instance_details(), names)
    if all(len(each.running) >= each.target for each in view.replicas.values()):
        return view
    return view._replace(starved=starved_among(actors_in("DEAD")))


def starved_among(dead: Collection[Mapping[str, Any]]) -> dict[str, str]:
    """What Ray says of the replicas among dead actors that it has ended for want of memory, by their ids."""
    told = {actor["Name"].rpartition("#")[2]: actor["DeathCause"].oom_context.error_message for actor in dead}
    return {replica: text.partition("\n")[0] for replica, text in told.items() if text}


def view_of(details: Mapping[str, Any], names: Collection[str]) -> ServerView:
    """A view made from Serve's details of its instance."""
    found = {name: entry for name, entry in details.get("applications", {}).items() if name in names}
    states = {name: (_word(entry["status"]), str(entry["message"])) for name, entry in found.items()}
    deployments = {
        (name, deployment): entry
        for name, application in found.items()
        for deployment, entry in application["deployments"].items()
    }
    messages = {key: said(entry["message"]) for key, entry in deployments.items() if entry.get("message")}
    return ServerView(states, {key: _replicas(entry) for key, entry in deployments.items()}, messages)


def _replicas(entry: Mapping[str, Any]) -> DeploymentReplicas:
    found = DeploymentReplicas(entry.get("target_num_replicas") or 0, _running(entry.get("replicas", [])))
    return found._replace(whole=found.target if found.complete else None)


def changes_between(before: ServerView, after: ServerView) -> list[str]:
    """One line per change, in this order: replicas that have gone, are back, or are more or fewer; want of memory; what
    Serve says of deployments; applications' states.
    """
    return [
        *_replica_news(before, after),
        *_memory_news(before, after),
        *news_among(before.messages, after.messages),
        *_state_news(before, after),
    ]


def _replica_news(before: ServerView, after: ServerView) -> Iterator[str]:
    for key, now in after.replicas.items():
        then = before.replicas.get(key)
        if then is None:
            continue
        lost = then.running - now.running
        gone = len(lost) > max(len(then.running) - now.target, 0)  # more than were told to go
        if gone:
            yield f"{key[1]}: {', '.join(sorted(lost))} {'is' if len(lost) == 1 else 'are'} gone; {now}"
        if now.complete and then.whole not in (None, now.target):
            yield f"{key[1]}: {now.target} run ({then.whole} before)"
        elif now.complete and (gone or len(then.running) < (then.whole or then.target)):
            yield f"{key[1]}: {now} again"


def _memory_news(before: ServerView, after: ServerView) -> Iterator[str]:
    """Ray's words, once for all that it ended at one time."""
    ran = {replica for then in before.replicas.values() for replica in then.running}
    for text in sorted({text for replica, text in after.starved.items() if replica in ran}):
        yield f"Ray has ended processes: {text}"


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
