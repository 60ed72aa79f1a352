"""Starting a server on a new Ray cluster or on a running one, watching it, and leaving nothing behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from urllib.parse import urlsplit

import ray

from aoti_serve.cluster.ray_private import metrics_at
from aoti_serve.errors import StartFailed
from aoti_serve.launcher import ProgressLog
from aoti_serve.launcher.cluster.applications import Applications, instance_details
from aoti_serve.launcher.cluster.connection import AUTH_MODE, connect, prepare_for_ray
from aoti_serve.launcher.cluster.discovery import asks_token, close_token
from aoti_serve.launcher.configuration.capacity import shortage
from aoti_serve.launcher.configuration.config_file import ConfigFile
from aoti_serve.launcher.configuration.endpoints import LOOPBACK, Endpoint, endpoint_of, only_here
from aoti_serve.launcher.configuration.leaders import leader_warning, led_now
from aoti_serve.launcher.configuration.readiness import port_errors
from aoti_serve.launcher.monitor import ServerMonitor, ServerView, view_now
from aoti_serve.launcher.processes.background import in_background, is_done, leave
from aoti_serve.launcher.processes.ports import ListeningPort, await_ports, listening_ports
from aoti_serve.launcher.processes.process_tree import ProcessTree
from aoti_serve.launcher.processes.stop_request import StopRequest
from aoti_serve.launcher.shutdown import Shutdown
from aoti_serve.model.package import Package
from aoti_serve.weights.store.term import home_of

SERVER_POLL_S = 0.1
PORTS_POLL_S = 1.0
WATCH_S = 2.0
UNGUARDED_CLUSTER = (
    f"warning: this Ray cluster asks for no token: whoever reaches one of its ports runs code in it. Start it with "
    f"{AUTH_MODE}=token, or keep others away from its network"
)


class Server:
    """One configuration on one Ray cluster. Lives in the process of `aoti-serve up`.

    `cluster` is the address of the cluster to join, None to start one. `drain_s` is the time that answers in flight
    may take at the end. `metrics_port` is where a cluster that is started shows its metrics. `replace` allows the
    deletion of applications that have the same name and are not these. `verbose` lets Ray and its workers speak.
    """

    def __init__(
        self,
        config: ConfigFile,
        packages: Mapping[str, Package],
        stop: StopRequest,
        log: ProgressLog,
        *,
        cluster: str | None,
        drain_s: float,
        metrics_port: int,
        replace: bool = False,
        verbose: bool = False,
    ) -> None:
        self.config = config
        self.endpoints: list[Endpoint] = []
        self.dashboard = self.metrics = self.ray = self.logs = ""
        self.token = True
        self._packages = packages
        self._stop = stop
        self._log = log
        self._cluster = cluster
        self._metrics_port = metrics_port
        self._replace = replace
        self._verbose = verbose
        self._first_view = ServerView({}, {})
        self._applications = Applications(config)
        self._processes = ProcessTree()
        self._shutdown = Shutdown(self._applications, self._processes, stop, log, drain_s=drain_s, joined=self.joined)

    @property
    def joined(self) -> bool:
        """True if the cluster belongs to others."""
        return self._cluster is not None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the server. At the end of the block take it down, unless the cluster belongs to others.

        A request to stop while it starts ends this process. Raises StartFailed when it is down again. Ray's own exit
        may still hang then: end this process with `leave`.
        """
        if not self.joined:
            await_ports(
                lambda: port_errors(self.config, self._metrics_port),
                self._log.progress,
                lambda: self._stop.wait(PORTS_POLL_S),
            )
            prepare_for_ray()
        try:
            self._start_unless_asked_to_stop()
        except BaseException:
            self._shutdown.abandon()
            raise
        try:
            yield
        finally:
            if not self.joined:
                self._shutdown.end()

    def watch(self) -> None:
        """Report what happens. Returns when a stop is requested, or when the applications or the cluster are gone."""
        monitor = ServerMonitor(self.config.names, self._log, self._first_view)
        while not self._stop.wait(WATCH_S):
            self._processes.update()
            if not self._processes.head_alive:
                self._log.say("Ray's head has died")
                return
            if not monitor.look():
                self._log.say("somebody has taken the applications down")
                return

    def listening(self) -> list[ListeningPort]:
        """The ports on which the processes that were started here listen, and what each is for."""
        self._processes.update()
        known = {
            **{urlsplit(endpoint.url).port: "HTTP" for endpoint in self.endpoints},
            **{application.gateway.grpc_port: "gRPC" for application in self.config.ours},
            urlsplit(f"//{self.dashboard}").port: "Ray's dashboard",
            urlsplit(self.metrics).port: "metrics for Prometheus",
        }
        return listening_ports(self._processes.alive(), {port: text for port, text in known.items() if port})

    def _start_unless_asked_to_stop(self) -> None:
        work = in_background(self._start, parent=not self.joined)
        while not is_done(work, SERVER_POLL_S):
            self._processes.update()
            if self._stop.asked:
                self._log.say("stopping, before it was ready")
                self._shutdown.abandon()
                leave(128 + self._stop.number)
        self._stop.catch()  # imported libraries may have installed their own handlers
        work.result()

    def _start(self) -> None:
        from ray import serve
        from ray.serve.config import HTTPOptions

        led = in_background(lambda: led_now(self.config.models))
        self._log.progress("starting Ray" if not self.joined else "joining the Ray cluster")
        options = {} if self._cluster else metrics_at(self._metrics_port)
        context = connect(self._cluster or "local", verbose=self._verbose, **options)
        self.dashboard = context.dashboard_url or "not running"
        self.ray = context.address_info["address"]
        self.logs = f"{context.address_info['session_dir']}/logs/serve"
        node = next(entry for entry in ray.nodes() if entry["NodeID"] == context.address_info["node_id"])
        self.metrics = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        self.token = asks_token(self.ray)
        if (note := close_token() if self.token else UNGUARDED_CLUSTER) is not None:
            self._log.say(note)
        self._require_room()
        host, port = self.config.proxy_address
        self._log.progress("starting Serve")
        serve.start(proxy_location=self.config.proxies, http_options=HTTPOptions(host=host, port=port))
        self._applications.deploy(replace=self._replace)
        self._wait_ready()
        self._warn_of_leaders(led)
        self._first_view = view_now(self.config.names)

    def _warn_of_leaders(self, led: Future[dict[str, str]]) -> None:
        """If they were heard of while this server started; `check` waits for that.

        Not of this application, which an earlier `up` may have put on the cluster.
        """
        if is_done(led, 0) and led.exception() is None:
            cluster = ray.get_runtime_context().gcs_address
            ours = {home_of(cluster, application.name) for application in self.config.ours}
            for name in (name for name, home in led.result().items() if home not in ours):
                self._log.say(f"warning: {leader_warning(name)}")

    def _require_room(self) -> None:
        """Refuse a configuration that the cluster cannot hold: Ray would wait for cores for ever, in silence.

        A joined cluster may still grow, so there it is only a note.
        """
        reason = shortage(self.config, self._packages, ray.cluster_resources())
        if reason and not self.joined:
            raise StartFailed(detail=f"{self.config.path}: {reason}: some replicas could never start")
        if reason:
            self._log.say(f"note: {reason}: some replicas will wait until there is more")

    def _wait_ready(self) -> None:
        while not self._stop.wait(SERVER_POLL_S):
            running, counts, news = self._applications.progress()
            for text in news:
                self._log.say(text)
            self._log.progress(f"starting: {counts}")
            if running and self._answer():
                return

    def _answer(self) -> bool:
        """True if all our applications answer, as far as they can be reached from here."""
        here = {LOOPBACK, ray.util.get_node_ip_address()}
        nodes = self._applications.gateways_on() if self.joined else set()
        node = LOOPBACK if not nodes or nodes & here else min(nodes)
        config = self._with_proxies_of_the_cluster()
        self.endpoints = [endpoint_of(application, config, node) for application in config.ours]
        asked = [
            endpoint
            for application, endpoint in zip(config.ours, self.endpoints, strict=True)
            if node == LOOPBACK or not only_here(application.gateway)
        ]
        return all(endpoint.ready() for endpoint in asked)

    def _with_proxies_of_the_cluster(self) -> ConfigFile:
        """The configuration with the proxy options of the cluster: its Serve keeps those that it was started with."""
        if not self.joined:
            return self.config
        options = instance_details().get("http_options") or {}
        return self.config._replace(content=self.config.content | {"http_options": options})
