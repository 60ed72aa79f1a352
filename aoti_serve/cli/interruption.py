"""The fate of a change to the weights that Ctrl-C has interrupted."""

from __future__ import annotations

import time

from aoti_serve.cli.client import AdminClient
from aoti_serve.cli.responses import status_of
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import AotiServeError

# Within this time a server that has the whole request begins the change, or sees that the client has gone.
BEGIN_S = 3.0
ASK_AGAIN_S = 0.2


def fate_of_change(client: AdminClient, before: WeightsStatus) -> str:
    """Ask the server what became of the change. Returns it as a sentence.

    `before` is the status from before the change was asked for. Takes `BEGIN_S` if the server has not begun the change;
    Ctrl-C ends the wait.
    """
    until = time.monotonic() + BEGIN_S
    try:
        while (found := new_attempt(before, status_of(client.status()))) is None:
            if time.monotonic() >= until:
                return "the server has not begun the change, so nothing has changed"
            time.sleep(ASK_AGAIN_S)
    except AotiServeError as error:
        return f"whether the server has begun the change is not known: {error}"
    except KeyboardInterrupt:
        return "whether the server has begun the change is not known"
    return found


def new_attempt(before: WeightsStatus, now: WeightsStatus) -> str | None:
    """The progress of the attempt that has begun since `before`, as a sentence; None if there is none."""
    known = {attempt.id for attempt in (before.swap, before.last) if attempt}
    if now.swap and now.swap.id not in known:
        return f"{now.swap.action} {now.swap.id} goes on on the server (phase {now.swap.phase})"
    if now.last and now.last.id not in known:
        what = f"{now.last.action} {now.last.id}"
        if now.last.error is None:
            return f"{what} has ended on the server: version {now.current.number} answers"
        return f"{what} has failed on the server: {now.last.error}"
    return None
