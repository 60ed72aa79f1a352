"""Starting a server on a Ray cluster of its own, or on one that runs already; and leaving nothing behind."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from rich.status import Status

from aoti_serve.cli.config_file import ConfigFile
from aoti_serve.cli.console import progress_out
from aoti_serve.cli.family import Family
from aoti_serve.cli.ports import free_port, holder_of
from aoti_serve.errors import StartFailed

POLL_S = 0.2
GRACE_S = 30.0
GRPC_MESSAGE_BYTES = 64 * 2**20


class Server:
    """One configuration on one Ray cluster. Lives in the process of `aoti-serve up`."""

    def __init__(self, config: ConfigFile, *, host: str, port: int, fast: bool, address: str | None) -> None:
        self.config = config
        self.host = host
        self.port = port
        self.fast = fast
        self.address = address
        self.dashboard = self.metrics = self.ray = ""
        self._leave_running = False
        self._family = Family()

    @property
    def url(self) -> str:
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"

    @contextmanager
    def running(self, stop: threading.Event) -> Iterator[None]:
        """Up inside, down after; if `stop` is set on the way up, it comes down again at once."""
        if self.address is None:
            _require_free(self.host, self.port)
        os.environ.update(self._environment())
        try:
            with progress_out.status("starting Ray") as status:
                _catch_signals(stop)
                self._start_ray()
                _catch_signals(stop)  # Ray has put its own handlers in, which would end this process on the spot
                self._deploy()
                self._wait_ready(stop, status)
            yield
        finally:
            if not self._leave_running:
                with progress_out.status("stopping"):
                    self._stop()

    def leave_running(self) -> None:
        """Do not take the application down when this process ends."""
        self._leave_running = True

    def watch(self, stop: threading.Event) -> None:
        """Return when `stop` is set, or when somebody has taken the application or the cluster down."""
        while not stop.wait(1.0):
            self._family.see()
            if not self._family.whole or not self._statuses():
                return

    def exposures(self) -> list[str]:
        """What listens beyond this machine, in words."""
        if not self.fast:
            return []
        return [
            "the fast ingress shows HAProxy's statistics and metrics on all interfaces, without a password: ports "
            f"{os.environ['RAY_SERVE_HAPROXY_STATS_PORT']} and {os.environ['RAY_SERVE_HAPROXY_METRICS_PORT']}. "
            "Put a firewall before them, or use --no-fast."
        ]

    def _environment(self) -> dict[str, str]:
        """Settings that Ray's processes read when they start; those that are set already stay."""
        # At once, not once a second: else whole weights pile up in the object store, chunk by chunk.
        wanted = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_free_objects_period_milliseconds": "0"}
        if self.fast:
            wanted |= {
                "RAY_SERVE_ENABLE_HA_PROXY": "1",
                "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
                "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(GRPC_MESSAGE_BYTES),
                "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port(8404)),
                "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port(9101)),
                # Else two servers on one machine share it, and answer each other's requests.
                "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port(8500)),
                "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            }
        return {key: value for key, value in wanted.items() if key not in os.environ}

    def _start_ray(self) -> None:
        from ray import serve
        from ray.serve.config import HTTPOptions

        context: Any = _connected(self.address or "local")
        self.dashboard = context.dashboard_url or "not running"
        self.ray = context.address_info["address"]
        self.metrics = _metrics_of(context.address_info["node_id"])
        self._warn_of_cores()
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(http_options=HTTPOptions(host=self.host, port=self.port))

    def _warn_of_cores(self) -> None:
        """Ray would let replicas wait for cores for ever, without a word."""
        import ray

        needed = sum(model.fewest_replicas * model.num_runners for model in self.config.models)
        there = int(ray.cluster_resources().get("CPU", 0))
        if needed > there:
            progress_out.print(
                f"note: the models take {needed} CPU cores (replicas x num_runners), Ray has {there}: unless "
                "`deployments:` says otherwise, some replicas will wait"
            )

    def _deploy(self) -> None:
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        client: Any = _get_global_client()
        client.deploy_apps(ServeDeploySchema.model_validate(self.config.content), _blocking=False)

    def _wait_ready(self, stop: threading.Event, status: Status) -> None:
        while not stop.wait(POLL_S):
            applications = self._statuses()
            self._family.see()
            self._tell(status, f"starting: {_progress(applications)}")
            for name, application in applications.items():
                if application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                    raise StartFailed(detail=f"application '{name}' did not start: {_reason(application)}")
            ready = applications and all(application.status == "RUNNING" for application in applications.values())
            if ready and self._answers():
                return

    def _statuses(self) -> dict[str, Any]:
        """Serve's view of our applications; on a joined cluster there may be others."""
        from ray import serve

        return {name: status for name, status in serve.status().applications.items() if name in self.config.names}

    def _tell(self, status: Status, text: str) -> None:
        """On a terminal in place; in a log a line per change."""
        if not progress_out.is_terminal and text != status.status:
            progress_out.print(text, markup=False)
        status.update(text)

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/v2/health/ready", timeout=5, trust_env=False).is_success
        return False

    def _stop(self) -> None:
        """Let answers in flight end, then end every process of ours. Ray answers nothing once its head has died, as
        when a supervisor signals the whole process group; so it is asked with a deadline."""
        self._family.see()
        if self._family.whole:
            graceful = threading.Thread(target=self._delete, daemon=True)
            graceful.start()
            graceful.join(GRACE_S)
            if not graceful.is_alive():
                self._family.end()
                return
        progress_out.print("Ray does not answer any more; its processes are killed")
        self._family.end()
        os._exit(1)  # Ray's own exit would wait for its head for a minute

    def _delete(self) -> None:
        import ray
        from ray import serve

        if not ray.is_initialized():
            return  # asking Serve would join whichever cluster was started last on this machine
        with suppress(Exception):  # whatever Ray says now, its processes are ended
            for name in self._statuses():
                serve.delete(name)
            ray.shutdown()


def delete_application(address: str, name: str) -> None:
    """Delete a Serve application on a running cluster; raises StartFailed if there is none."""
    from ray import serve

    _connected(address)
    if name not in serve.status().applications:
        raise StartFailed(detail=f"no application '{name}' on the cluster at '{address}'")
    serve.delete(name)


def _connected(address: str) -> Any:
    import ray

    try:
        return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        hint = "if it asks for a token, set RAY_AUTH_MODE=token here as well"
        raise StartFailed(detail=f"no Ray cluster answers at '{address}' ({error}); {hint}") from error


def _metrics_of(node: str) -> str:
    """Where Ray's agent on a node shows metrics to Prometheus; each node has one."""
    import ray

    found = next(entry for entry in ray.nodes() if entry["NodeID"] == node)
    return f"http://{found['NodeManagerAddress']}:{found['MetricsExportPort']}/metrics"


def _require_free(host: str, port: int) -> None:
    holder = holder_of(host, port)
    if holder is not None:
        raise StartFailed(detail=f"port {port} is taken by {holder}; stop it, or choose another with --port")


def _catch_signals(stop: threading.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())


def _progress(applications: dict[str, Any]) -> str:
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
