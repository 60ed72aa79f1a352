"""Waiting for the end of the rollout that a swap has begun: how far it is, and whether its version answers then."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live

from aoti_serve.cli.answers import Uncut, value_of
from aoti_serve.cli.candidate_view import rolling_out_view
from aoti_serve.cli.client import AdminClient
from aoti_serve.cli.console import out, progress_out
from aoti_serve.cli.live import StatusEvent, follow
from aoti_serve.cli.weights.changes import INTERRUPTED, typed
from aoti_serve.cli.weights.trial_view import ending_text, rollout_lines, trial_views
from aoti_serve.cluster.status import CandidateStatus, WeightsStatus
from aoti_serve.errors import RolloutFailed, TryAgain
from aoti_serve.weights.rollout.decisions import RolloutOutcome
from aoti_serve.weights.rollout.state import RolloutPhase

PATIENCE_S = 60.0  # a coordinator or a gateway that starts anew is back by then
UNKNOWN_END = "how it has ended is not known"  # the coordinator has started anew since, or the next rollout has begun


def has_begun_rollout(answer: Any) -> bool:
    """Whether rules decide on the candidate in the server's answer to a swap."""
    candidate = answer.get("candidate") if isinstance(answer, dict) else None
    return isinstance(candidate, dict) and bool(candidate.get("plan"))


def outcome_of_rollout(client: AdminClient, answer: Any, started: float, as_json: bool) -> Any:
    """Wait for the end of the rollout that has begun in this answer to a swap; the status of the server then.

    Shows how far it is, on standard error. Ctrl-C ends the command and leaves the rollout to the server.
    Raises RolloutFailed if its version does not answer then, TryAgain if the server is silent for PATIENCE_S.
    """
    status = value_of(WeightsStatus, answer)
    assert status.candidate is not None
    if not as_json:
        out.print(_begun_view(client, status, status.candidate, time.perf_counter() - started))
    following = _Following(client, status, quiet=as_json)
    try:
        following.run()
    except KeyboardInterrupt:
        goes_on = f"the rollout of version {following.version} goes on on the server"
        progress_out.print(f"interrupted: {goes_on}; see `{typed(client, 'status')}`")
        sys.exit(INTERRUPTED)
    _check(following.newest, following.version)
    return following.answer


class _Following:
    """The events of a rollout until it has ended: redrawn on a terminal; elsewhere a line for each step, if at all."""

    def __init__(self, client: AdminClient, begun: WeightsStatus, *, quiet: bool) -> None:
        assert begun.candidate is not None
        self.version = begun.candidate.version.number
        self.newest = begun
        self.answer: Any = None
        self._client = client
        self._quiet = quiet
        self._said: object = None
        self._heard = time.monotonic()
        self._over = threading.Event()

    def run(self) -> None:
        live = Live(console=progress_out, get_renderable=self._frame, transient=True)
        if progress_out.is_terminal:
            live.start()
        try:
            follow(self._client, self._hear, self._over)
        finally:
            live.stop()

    def _hear(self, news: StatusEvent) -> None:
        if news.status is None:
            self._bear(news.trouble or "")
            return
        self._heard, self.answer, self.newest = time.monotonic(), news.answer, news.status
        if _is_over(news.status, self.version):
            self._over.set()
        else:
            self._say_step(news.status)

    def _bear(self, trouble: str) -> None:
        if time.monotonic() - self._heard > PATIENCE_S:
            unknown = f"what becomes of version {self.version} is not known"
            raise TryAgain(detail=f"{trouble}; {unknown}: see `{typed(self._client, 'status')}`")
        self._say(trouble, f"{trouble}; trying again")

    def _say_step(self, status: WeightsStatus) -> None:
        if (rollout := status.rollout) is not None:
            lines = rollout_lines(rollout, status.candidate.plan if status.candidate else None)
            self._say((rollout.phase, rollout.step, rollout.extended), Uncut(Group(*lines)))

    def _say(self, what: object, text: RenderableType) -> None:
        """Once; on a terminal it is drawn."""
        if what != self._said and not self._quiet and not progress_out.is_terminal:
            progress_out.print(text)
        self._said = what

    def _frame(self) -> RenderableType:
        return Group(*trial_views(self.newest))


def _begun_view(
    client: AdminClient, status: WeightsStatus, candidate: CandidateStatus, seconds: float
) -> RenderableType:
    assert candidate.plan is not None
    commands = [typed(client, "promote"), typed(client, "withdraw")]
    return rolling_out_view(status, candidate, candidate.plan, seconds, commands)


def _is_over(status: WeightsStatus, version: int) -> bool:
    if status.rollout is not None and status.rollout.version == version:
        return status.rollout.phase is RolloutPhase.ENDED
    return status.candidate is None or status.candidate.version.number != version


def _check(status: WeightsStatus, version: int) -> None:
    rollout = status.rollout if status.rollout and status.rollout.version == version else None
    promoted = rollout is not None and rollout.outcome is RolloutOutcome.PROMOTED
    if not promoted and status.current.number != version:
        outcome = ending_text(rollout) if rollout else UNKNOWN_END
        raise RolloutFailed(version=version, outcome=outcome, current=status.current.number)
