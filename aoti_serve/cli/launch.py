"""Starting a server on a Ray cluster of its own, or on one that runs already; and leaving nothing behind."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from rich.status import Status

from aoti_serve.cli.applications import Applications, drained, end_proxies, ingress_among
from aoti_serve.cli.config_file import ConfigFile
from aoti_serve.cli.console import progress_out
from aoti_serve.cli.family import Family
from aoti_serve.cli.leftovers import leftovers, require_free
from aoti_serve.cli.listening import Listener, listeners
from aoti_serve.cli.pulse import Pulse
from aoti_serve.cli.settings import chosen_ports, ray_settings
from aoti_serve.cli.stop import Stop
from aoti_serve.errors import StartFailed

POLL_S = 0.2
WATCH_S = 2.0
# Once all is answered: for the applications to end, and for Ray.
DELETE_S, SHUT_DOWN_S = 30.0, 15.0
ANSWER_S = 10.0  # beyond which Ray will not answer any more


class Server:
    """One configuration on one Ray cluster. Lives in the process of `aoti-serve up`.

    `drain_s` is how long answers in flight may take when it is told to stop.
    """

    def __init__(
        self, config: ConfigFile, stop: Stop, *, host: str, port: int, fast: bool, address: str | None, drain_s: float
    ) -> None:
        self.config = config
        self.host = host
        self.port = port
        self.fast = fast
        self.address = address
        self.dashboard = self.metrics = self.ray = ""
        self._stop = stop
        self._drain_s = drain_s
        self._leave_running = self._was_ready = self._ray_answers = False
        self._applications = Applications(config)
        self._family = Family()

    @property
    def url(self) -> str:
        """Of the first application of ours."""
        return self._urls[0]

    @property
    def _urls(self) -> list[str]:
        root = f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"
        return [root + prefix for prefix in self.config.prefixes or [""]]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Up inside, down after; if it is asked to stop on the way up, it comes down again at once."""
        self._stop.catch()
        if self.address is None:
            self._look_around()
        folder = Path(tempfile.mkdtemp(prefix="aoti-serve-"))
        os.environ.update(ray_settings(folder, fast=self.fast, drain_s=self._drain_s))
        try:
            with progress_out.status("starting Ray") as status:
                self._start_ray()
                self._stop.catch()  # Ray has put its own handlers in, which would end this process on the spot
                self._applications.deploy()
                self._wait_ready(status)
            yield
        finally:
            if not self._leave_running:
                with progress_out.status("stopping"):
                    self._end(folder)
            shutil.rmtree(folder, ignore_errors=True)

    def leave_running(self) -> None:
        """Do not take the application down when this process ends."""
        self._leave_running = True

    def watch(self) -> None:
        """Return when it is asked to stop, or when somebody has taken the application or the cluster down."""
        while not self._stop.wait(WATCH_S):
            self._family.see()
            if not self._family.whole or not self._applications.statuses():
                return

    def listening(self) -> list[Listener]:
        """What the processes that were started here listen on, and for what."""
        self._family.see()
        known = {
            self.port: "HTTP",
            urlsplit(f"//{self.dashboard}").port: "Ray's dashboard",
            urlsplit(self.metrics).port: "metrics for Prometheus",
        }
        return listeners(self._family.alive(), chosen_ports() | {port: text for port, text in known.items() if port})

    def _look_around(self) -> None:
        left = leftovers()
        require_free(self.host, self.port, left)
        for leftover in left:
            progress_out.print(f"note: {leftover}")

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

    def _wait_ready(self, status: Status) -> None:
        while not self._stop.wait(POLL_S):
            self._family.see()
            running, progress = self._applications.running()
            self._tell(status, f"starting: {progress}")
            if running and self._answers():
                self._was_ready = True
                return

    def _tell(self, status: Status, text: str) -> None:
        """On a terminal in place; in a log a line per change."""
        if not progress_out.is_terminal and text != status.status:
            progress_out.print(text, markup=False)
        status.update(text)

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            answers = [httpx.get(f"{url}/v2/health/ready", timeout=5, trust_env=False) for url in self._urls]
            return all(answer.is_success for answer in answers)
        return False

    def _end(self, folder: Path) -> None:
        """Let answers in flight end, then end every process of ours. Ray answers nothing once its head has died, as
        when a supervisor signals the whole process group; so it is asked in threads, with deadlines."""
        self._family.see()
        if self._family.whole and self._left() and self._in_time(_shut_down, SHUT_DOWN_S):
            self._family.end()
            return
        progress_out.print(self._why_cut())
        self._family.end()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)  # Ray's own exit would wait for its head for a minute

    def _left(self) -> bool:
        """Whether all that was in flight has been answered, and the applications are down."""
        import ray

        answered = threading.Event()

        def leave() -> None:
            if not ray.is_initialized():  # asking Serve would join whichever cluster was started last on this machine
                answered.set()
            elif not self._was_ready or drained(self.config.ingresses, self._drain_s):
                answered.set()
                with suppress(Exception):  # whatever Ray says now, its processes are ended
                    self._shut_doors()
                    self._applications.delete()

        pulse = Pulse(_ask_ray, ANSWER_S)  # told to end, its head may live on and answer nothing
        pulse.start()
        in_time = self._in_time(leave, self._drain_s + DELETE_S, lambda: pulse.lost() or not self._family.whole)
        self._ray_answers = self._family.whole and not pulse.lost()
        return in_time and answered.is_set() and self._ray_answers

    def _shut_doors(self) -> None:
        """A proxy with no application behind it would say 404 to everybody."""
        if self.fast:
            self._family.end_haproxy()
        elif self.address is None:
            end_proxies()

    def _in_time(self, work: Callable[[], None], seconds: float, hopeless: Callable[[], bool] = bool) -> bool:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return not self._stop.outlasts(thread, seconds, hopeless)

    def _why_cut(self) -> str:
        if self._stop.at_once:
            return "asked again: what is in flight is cut"
        if self._ray_answers:
            return f"{self._drain_s:g} s are over: what is in flight is cut"
        return "Ray does not answer any more; its processes are killed"


def delete_application(address: str, name: str, drain_s: float) -> None:
    """Delete a Serve application on a running cluster, after its answers in flight; StartFailed if there is none."""
    from ray import serve

    _connected(address)
    found = serve.status().applications.get(name)
    if found is None:
        raise StartFailed(detail=f"no application '{name}' on the cluster at '{address}'")
    ingress = ingress_among(found.deployments)
    if ingress and not drained({name: ingress}, drain_s):
        progress_out.print(f"{drain_s:g} s are over: what is in flight is cut")
    serve.delete(name)


def _connected(address: str) -> Any:
    import ray

    try:
        return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        hint = "if it asks for a token, set RAY_AUTH_MODE=token here as well"
        raise StartFailed(detail=f"no Ray cluster answers at '{address}' ({error}); {hint}") from error


def _ask_ray() -> None:
    import ray

    if ray.is_initialized():
        ray.nodes()


def _shut_down() -> None:
    import ray

    with suppress(Exception):
        ray.shutdown()


def _metrics_of(node: str) -> str:
    """Where Ray's agent on a node shows metrics to Prometheus; each node has one."""
    import ray

    found = next(entry for entry in ray.nodes() if entry["NodeID"] == node)
    return f"http://{found['NodeManagerAddress']}:{found['MetricsExportPort']}/metrics"
