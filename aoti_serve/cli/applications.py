"""The configuration's applications, as Serve on a cluster sees them."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from typing import Any

from aoti_serve.cli.config_file import ConfigFile
from aoti_serve.cli.console import progress_out
from aoti_serve.cluster.names import GATEWAY, coordinator_of, replicas_of
from aoti_serve.errors import StartFailed

POLL_S = 0.1
ANSWER_S = 5.0
PROXY = "SERVE_PROXY_ACTOR"


class Applications:
    """Needs a connection to the cluster; there may be other applications on it."""

    def __init__(self, config: ConfigFile) -> None:
        self._config = config

    def deploy(self) -> None:
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        client: Any = _get_global_client()
        client.deploy_apps(ServeDeploySchema.model_validate(self._config.content), _blocking=False)

    def statuses(self) -> dict[str, Any]:
        from ray import serve

        return {name: status for name, status in serve.status().applications.items() if name in self._config.names}

    def running(self) -> tuple[bool, str]:
        """Whether all run, and how far they are, in words. Raises StartFailed for one that never will."""
        statuses = self.statuses()
        for name, status in statuses.items():
            if status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise StartFailed(detail=f"application '{name}' did not start: {_reason(status)}")
        done = bool(statuses) and all(status.status == "RUNNING" for status in statuses.values())
        return done, _progress(statuses)

    def delete(self) -> None:
        from ray import serve

        for name in self.statuses():
            serve.delete(name)


def drained(ingresses: Mapping[str, str], seconds: float) -> bool:
    """Have the gateways take no new requests; whether all that are in flight were answered in this time.

    `ingresses` are the deployments that answer HTTP, by application. One that cannot be asked has nothing in flight.
    """
    deadline = time.monotonic() + seconds
    try:
        handles = [_handle(name, ingress) for name, ingress in ingresses.items()]
        while any(sum(handle.broadcast("drain").results(timeout_s=ANSWER_S)) for handle in handles):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
    except Exception as error:  # a gateway that has just died, or is somebody else's
        progress_out.print(f"note: a gateway cannot be asked what is in flight: {error!r}")
    return True


def end_proxies() -> None:
    """End Serve's own proxies, on a cluster that nobody else uses."""
    import ray

    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(PROXY):
            ray.kill(ray.get_actor(actor["name"], actor["namespace"]))


def _handle(application: str, ingress: str) -> Any:
    from ray import serve

    handle = serve.get_deployment_handle(ingress, application)
    handle._init(_run_router_in_separate_loop=True)  # the caller's thread has none, and the fast settings expect one
    return handle


def ingress_among(deployments: Collection[str]) -> str | None:
    """Which of an application's deployments answers HTTP, if it is one of ours: the gateway, or the fused replica."""
    if GATEWAY in deployments:
        return GATEWAY
    coordinated = [name for name in deployments if name.endswith(coordinator_of(""))]
    replicas = [replicas_of(name.removesuffix(coordinator_of(""))) for name in coordinated]
    return next((name for name in replicas if name in deployments), None)


def _progress(applications: Mapping[str, Any]) -> str:
    parts = []
    for application in applications.values():
        for name, deployment in application.deployments.items():
            running = deployment.replica_states.get("RUNNING", 0)
            parts.append(f"{name} {running}/{sum(deployment.replica_states.values()) or '?'}")
            if deployment.message:
                parts.append(deployment.message)
    return ", ".join(parts) or "building the application"


def _reason(application: Any) -> str:
    messages = [application.message, *(deployment.message for deployment in application.deployments.values())]
    text = "\n".join(message for message in messages if message).strip()
    ours = re.findall(r"aoti_serve\.errors\.\w+(?:\))?: (.+)", text)
    last = text.splitlines()[-1] if text else "Serve gives no reason"
    return ours[-1] if ours else f"{last} (Ray's logs have the whole story: /tmp/ray/session_latest/logs/serve)"
