"""The applications of a configuration file, deployed on a cluster through Serve."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from aoti_serve import errors
from aoti_serve.cluster.deployments import GATEWAY
from aoti_serve.cluster.ray_private import deployed_applications, serve_client
from aoti_serve.errors import StartFailed
from aoti_serve.launcher.cluster.messages import OURS, news_among, said
from aoti_serve.launcher.configuration.config_file import DISABLED, ConfigFile
from aoti_serve.launcher.configuration.merging import Deployed, deployed_among, merge_deployments

# Errors that a second try would meet again.
LASTING = (
    errors.StartFailed,
    errors.PortTaken,
    errors.InvalidConfig,
    errors.PackageError,
    errors.InvalidWeights,
    errors.StoreDamaged,
)
# Nor does a store open to a second try that may not be written to; a full disk or one that is away may come right.
CLOSED = re.compile(rf"\[Errno ({'|'.join(map(str, (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)))})\]")
LOGS = "/tmp/ray/session_latest/logs/serve"


class StartProgress(NamedTuple):
    """How far a start is: whether all run, how many replicas of each deployment do, and what Serve newly says."""

    running: bool
    counts: str
    news: list[str]


class Applications:
    """The applications of one configuration file. Needs a connection to the cluster.

    The cluster may run other applications, too.
    """

    def __init__(self, config: ConfigFile) -> None:
        self._config = config
        self._before: dict[str, Deployed] = {}
        self._deployed = False
        self._told: dict[tuple[str, str], str] = {}

    def deploy(self, *, replace: bool) -> None:
        """Deploy them beside the cluster's applications. Raises StartFailed if one would replace what is not ours."""
        from ray.serve.schema import ServeDeploySchema

        details = instance_details()
        self._before = deployed_among(details, deployed_applications())
        _require_reach(self._config, details)
        content = {"target_capacity": details.get("target_capacity")} | merge_deployments(
            self._config, self._before, replace=replace
        )
        serve_client().deploy_apps(ServeDeploySchema.model_validate(content), _blocking=False)
        self._deployed = True

    def statuses(self) -> dict[str, Any]:
        from ray import serve

        return {name: status for name, status in serve.status().applications.items() if name in self._config.names}

    def progress(self) -> StartProgress:
        """How far their start is, by one look at Serve. Raises StartFailed for one that will never run."""
        statuses = self.statuses()
        for name, status in statuses.items():
            if status.status in ("DEPLOY_FAILED", "UNHEALTHY") or (
                status.status == "DEPLOYING" and is_hopeless(status)
            ):
                raise StartFailed(detail=f"application '{name}' did not start: {reason_of(status)}")
        done = set(statuses) == set(self._config.names) and all(
            status.status == "RUNNING" for status in statuses.values()
        )
        return StartProgress(done, _counts(statuses), self._news(statuses))

    def _news(self, statuses: Mapping[str, Any]) -> list[str]:
        """What Serve says of deployments, once each time that it says something else."""
        found = {
            (name, deployment): said(entry.message)
            for name, status in statuses.items()
            for deployment, entry in status.deployments.items()
            if entry.message
        }
        news = news_among(self._told, found)
        self._told |= found
        return news

    def ours_there(self) -> list[str]:
        """The names of our applications that the cluster has."""
        there = self.statuses()
        return [application.name for application in self._config.ours if application.name in there]

    def delete(self) -> None:
        """Delete those that the cluster has; returns when they are gone."""
        serve_client().delete_apps(list(self.statuses()))

    def delete_new(self) -> None:
        """Delete the applications that a failed start has added. Those of before stay as Serve has left them."""
        if self._deployed:
            serve_client().delete_apps([name for name in self.statuses() if name not in self._before])

    def gateways_on(self) -> set[str]:
        """The addresses of the nodes that run gateways."""
        found = instance_details()["applications"]
        deployments = [found[name]["deployments"].get(GATEWAY, {}) for name in self._config.names if name in found]
        return {
            replica["node_ip"] for entry in deployments for replica in entry.get("replicas", []) if replica["node_ip"]
        }


def instance_details() -> dict[str, Any]:
    """Serve's description of its instance and of all applications."""
    found: dict[str, Any] = serve_client().get_serve_details()
    return found


def _require_reach(config: ConfigFile, details: Mapping[str, Any]) -> None:
    hidden = [application.name for application in config.ours if application.gateway.http_port is None]
    if hidden and (details.get("proxy_location") or DISABLED) == DISABLED:
        raise StartFailed(
            detail=f"application '{hidden[0]}' does not listen (`http_port: null`), and this cluster's Serve has no "
            "proxies, so nobody would reach it: give it a port"
        )


def _counts(applications: Mapping[str, Any]) -> str:
    parts = []
    for application in applications.values():
        for name, deployment in application.deployments.items():
            running = deployment.replica_states.get("RUNNING", 0)
            parts.append(f"{name} {running}/{sum(deployment.replica_states.values()) or '?'}")
    return ", ".join(parts) or "building the application"


def reason_of(application: Any) -> str:
    """The reason why an application did not start: our own error's text, or else the last line of Serve's."""
    text = _messages(application)
    why = said(text)
    return why if OURS.search(text) else f"{why or 'Serve gives no reason'} (Ray's logs have the whole: {LOGS})"


def is_hopeless(application: Any) -> bool:
    """True if a further try, which Serve would make, would fail in the same way."""
    return any(_lasts(getattr(errors, name, None), text) for name, text in OURS.findall(_messages(application)))


def _lasts(kind: type | None, text: str) -> bool:
    return kind is not None and (
        issubclass(kind, LASTING) or (kind is errors.StoreFailed and CLOSED.search(text) is not None)
    )


def _messages(application: Any) -> str:
    messages = [application.message, *(deployment.message for deployment in application.deployments.values())]
    return "\n".join(message for message in messages if message)
