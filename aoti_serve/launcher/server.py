"""Starting a server on a Ray cluster of its own, or on one that runs already; and leaving nothing behind."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from aoti_serve.errors import StartFailed
from aoti_serve.launcher.address import Cluster, asks_token
from aoti_serve.launcher.applications import Applications, instance_details
from aoti_serve.launcher.config_file import DISABLED, ConfigFile
from aoti_serve.launcher.connection import connected, metrics_of, ping, shut_down
from aoti_serve.launcher.demand import shortage
from aoti_serve.launcher.draining import drained, end_proxies
from aoti_serve.launcher.endpoints import LOOPBACK, Endpoint, endpoint_of, only_here
from aoti_serve.launcher.family import Family
from aoti_serve.launcher.listening import Listener, listeners
from aoti_serve.launcher.ports import require_free
from aoti_serve.launcher.pulse import Pulse
from aoti_serve.launcher.settings import prepare_for_ray
from aoti_serve.launcher.stop import Stop
from aoti_serve.launcher.voice import Voice
from aoti_serve.launcher.watch import Watch
from aoti_serve.launcher.work import Work, leave
from aoti_serve.model.package import Package

POLL_S = 0.1
WATCH_S = 2.0
# Once all is answered: for the applications to end, and for Ray.
DELETE_S, SHUT_DOWN_S = 30.0, 15.0
ANSWER_S = 10.0  # beyond which Ray will not answer any more


class Server:
    """One configuration on one Ray cluster. Lives in the process of `aoti-serve up`.

    `cluster` is the one to join, None to start one; `drain_s` is how long answers in flight may take when it is told to
    stop; `replace` lets applications of the same name go that are not these.
    """

    def __init__(
        self,
        config: ConfigFile,
        packages: Mapping[str, Package],
        stop: Stop,
        voice: Voice,
        *,
        cluster: Cluster | None,
        drain_s: float,
        replace: bool = False,
    ) -> None:
        self.config = config
        self.endpoints: list[Endpoint] = []
        self.dashboard = self.metrics = self.ray = ""
        self.token = cluster.token if cluster else True
        self._packages = packages
        self._stop = stop
        self._voice = voice
        self._cluster = cluster
        self._drain_s = drain_s
        self._replace = replace
        self._deployed = self._ray_answers = self._leave_running = False
        self._applications = Applications(config)
        self._family = Family()

    @property
    def joined(self) -> bool:
        """Whether the cluster is somebody else's."""
        return self._cluster is not None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Up inside, down after. If it is asked to stop on the way up, this process ends.

        Raises StartFailed, when it is down again; Ray's own exit may still hang then, so end this process with `leave`.
        """
        if not self.joined:
            self._require_ports()
            prepare_for_ray()
        try:
            self._start_unless_asked_to_stop()
        except BaseException:
            self._abandon()
            raise
        try:
            yield
        finally:
            if not self._leave_running:
                self._end()

    def leave_running(self) -> None:
        """Do not take the applications down when this process ends."""
        self._leave_running = True

    def watch(self) -> None:
        """Tell what happens; return when it is asked to stop, or when the applications or the cluster are gone."""
        watch = Watch(self.config.names, self._voice)
        while not self._stop.wait(WATCH_S):
            self._family.see()
            if not self._family.whole:
                self._voice.say("Ray's head has died")
                return
            if not watch.look():
                self._voice.say("somebody has taken the applications down")
                return

    def listening(self) -> list[Listener]:
        """What the processes that were started here listen on, and for what."""
        self._family.see()
        known = {
            **{urlsplit(endpoint.url).port: "HTTP" for endpoint in self.endpoints},
            urlsplit(f"//{self.dashboard}").port: "Ray's dashboard",
            urlsplit(self.metrics).port: "metrics for Prometheus",
        }
        return listeners(self._family.alive(), {port: text for port, text in known.items() if port})

    def _require_ports(self) -> None:
        for application in self.config.ours:
            if application.gateway.http_port is not None:
                way_out = "choose another with --port, or `gateway.http_port` in the file"
                require_free(application.gateway.host, application.gateway.http_port, way_out)
        if self.config.proxies != DISABLED:
            way_out = "choose another for Serve's proxies, `http_options.port` in the file"
            require_free(*self.config.proxy_address, way_out)

    def _start_unless_asked_to_stop(self) -> None:
        work = Work(self._start, parent=not self.joined)
        while not work.wait(POLL_S):
            self._family.see()
            if self._stop.asked:
                self._break_off()
        self._stop.catch()  # whoever is imported may put in handlers of his own
        work.result()

    def _start(self) -> None:
        from ray import serve
        from ray.serve.config import HTTPOptions

        self._voice.progress("starting Ray" if not self.joined else "joining the Ray cluster")
        context = connected(self._cluster.address if self._cluster else "local")
        self.dashboard = context.dashboard_url or "not running"
        self.ray = context.address_info["address"]
        self.metrics = metrics_of(context.address_info["node_id"])
        self.token = asks_token(self.ray)
        self._require_room()
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        host, port = self.config.proxy_address
        serve.start(proxy_location=self.config.proxies, http_options=HTTPOptions(host=host, port=port))
        self._applications.deploy(replace=self._replace)
        self._deployed = True
        self._wait_ready()

    def _require_room(self) -> None:
        """Ray would let replicas wait for cores for ever, without a word; another's cluster may grow."""
        import ray

        reason = shortage(self.config, self._packages, ray.cluster_resources())
        if reason and not self.joined:
            raise StartFailed(detail=f"{reason}: some replicas could never start")
        if reason:
            self._voice.say(f"note: {reason}: some replicas will wait until there is more")

    def _wait_ready(self) -> None:
        while not self._stop.wait(POLL_S):
            running, progress = self._applications.running()
            self._voice.progress(f"starting: {progress}")
            if running and self._answer():
                return

    def _answer(self) -> bool:
        """Whether every application of ours does, as far as it can be reached from here."""
        import ray

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
        """A cluster's Serve keeps the proxies that it was started with, whatever the file says."""
        if not self.joined:
            return self.config
        options = instance_details().get("http_options") or {}
        return self.config._replace(content=self.config.content | {"http_options": options})

    def _break_off(self) -> None:
        """Asked to stop on the way up: nothing has been answered, so nothing has to be waited for."""
        self._voice.say("stopping, before it was ready")
        self._abandon()
        leave(128 + self._stop.number)

    def _abandon(self) -> None:
        """Nothing has been answered yet: end what was started. On another's cluster what was there before stays."""
        if self._deployed and self.joined:
            self._in_time(lambda: self._applications.delete(only_new=True), DELETE_S)
        self._family.see()
        self._family.end()

    def _end(self) -> None:
        """Let answers in flight end, then end every process of ours. Ray answers nothing once its head has died, as
        when a supervisor signals the whole process group; so it is asked in threads, with deadlines."""
        self._voice.progress("stopping")
        self._family.see()
        if self._family.whole and self._left() and self._in_time(shut_down, SHUT_DOWN_S):
            self._family.end()
            return
        self._voice.say(self._why_cut())
        self._family.end()
        leave(1)

    def _left(self) -> bool:
        """Whether all that was in flight has been answered, and the applications are down."""
        import ray

        answered = threading.Event()

        def depart() -> None:
            if not ray.is_initialized():  # asking Serve would join whichever cluster was started last on this machine
                answered.set()
            elif drained(self._ours_there(), self._drain_s, self._voice):
                answered.set()
                with suppress(Exception):  # whatever Ray says now, its processes are ended
                    self._delete()

        pulse = Pulse(ping, ANSWER_S)  # told to end, its head may live on and answer nothing
        pulse.start()
        in_time = self._in_time(depart, self._drain_s + DELETE_S, lambda: pulse.lost() or not self._family.whole)
        self._ray_answers = self._family.whole and not pulse.lost()
        return in_time and answered.is_set() and self._ray_answers

    def _ours_there(self) -> list[str]:
        there = self._applications.statuses()
        return [application.name for application in self.config.ours if application.name in there]

    def _delete(self) -> None:
        if not self.joined:
            end_proxies()
        self._applications.delete()

    def _in_time(self, work: Callable[[], None], seconds: float, hopeless: Callable[[], bool] = bool) -> bool:
        return not self._stop.outlasts(Work(work), seconds, hopeless)

    def _why_cut(self) -> str:
        if self._stop.at_once:
            return "asked again: what is in flight is cut"
        if self._ray_answers:
            return f"{self._drain_s:g} s are over: what is in flight is cut"
        return "Ray does not answer any more; its processes are killed"
