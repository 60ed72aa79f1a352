"""Draining: gateways answer the requests that they have taken, and take no new ones."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from aoti_serve.cluster.deployments import GATEWAY, models_among
from aoti_serve.cluster.ray_private import from_any_thread
from aoti_serve.launcher import ProgressLog

DRAIN_POLL_S = 0.1
DRAIN_ANSWER_S = 5.0
PROXY = "SERVE_PROXY_ACTOR"


def wait_until_drained(applications: Collection[str], seconds: float, log: ProgressLog) -> bool:
    """Tell the gateways to take no new requests. Returns true if all requests in flight were answered in `seconds`.

    A gateway that cannot be reached counts as having nothing in flight.
    """
    deadline = time.monotonic() + seconds
    try:
        handles = [_gateways(name) for name in applications]
        while any(sum(handle.broadcast("drain").results(timeout_s=DRAIN_ANSWER_S)) for handle in handles):
            if time.monotonic() >= deadline:
                return False
            time.sleep(DRAIN_POLL_S)
    except Exception as error:  # a gateway that has just died, or an application that has just gone
        log.say(f"note: a gateway cannot be asked what is in flight: {error!r}")
    return True


def end_proxies() -> None:
    """End Serve's own proxies, on a cluster that runs nothing else.

    Without applications they would answer 404 to everything.
    """
    import ray

    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(PROXY):
            ray.kill(ray.get_actor(actor["name"], actor["namespace"]))


def is_ours(deployments: Collection[str]) -> bool:
    """True if an application with these deployments is one of ours, so that its gateways can be drained."""
    return GATEWAY in deployments and bool(models_among(deployments))


def _gateways(application: str) -> Any:
    from ray import serve

    return from_any_thread(serve.get_deployment_handle(GATEWAY, application))
