"""Taking down an application of a cluster."""

from __future__ import annotations

import time

from ray import serve

from aoti_serve.cluster.head import why_unreachable
from aoti_serve.cluster.ray_private import serve_client
from aoti_serve.errors import StartFailed
from aoti_serve.launcher import ProgressLog
from aoti_serve.launcher.cluster.connection import connect
from aoti_serve.launcher.cluster.draining import is_ours, wait_until_drained
from aoti_serve.launcher.processes.background import in_background, is_done

DELETE_POLL_S = 0.1
DELETE_S = 60.0


def take_down(cluster: str, name: str, drain_s: float, log: ProgressLog) -> None:
    """Delete an application of the cluster at this address, after its answers in flight.

    Raises StartFailed if there is none of this name. A cluster that ends together with its application, such as that
    of a foreground `up`, counts as success. A call to Ray may still be hanging then: end this process with `leave`.
    """
    in_background(lambda: _drain(cluster, name, drain_s, log)).result()
    deleting = in_background(lambda: serve_client().delete_apps([name]))
    deadline = time.monotonic() + DELETE_S
    while not is_done(deleting, DELETE_POLL_S) and why_unreachable(cluster) is None:
        if time.monotonic() > deadline:
            raise StartFailed(detail=f"application '{name}' is still being taken down after {DELETE_S:g} s")
    if deleting.done() and why_unreachable(cluster) is None:
        deleting.result()


def _drain(cluster: str, name: str, drain_s: float, log: ProgressLog) -> None:
    connect(cluster)
    found = serve.status().applications
    if name not in found:
        there = ", ".join(found) or "none"
        raise StartFailed(detail=f"no application '{name}' on the Ray cluster at {cluster}; available: {there}")
    if is_ours(found[name].deployments) and not wait_until_drained([name], drain_s, log):
        log.say(f"{drain_s:g} s are over: what is in flight is cut")
