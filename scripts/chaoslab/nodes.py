"""A Ray cluster of several nodes on this machine, and its processes by what they are."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil
import yaml

GPUS_PER_NODE = 2
START_S = 60.0
POLL_S = 0.05
SEAT = "seat"  # a resource that all nodes but the head have: what takes of it dies with one of them
# Milliseconds: a node that has died is known to be dead after two seconds, and one that is only slow after twenty.
QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 4,
}


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Node:
    """One `ray start`, and all that descends from it."""

    def __init__(self, arguments: Iterable[str], env: Mapping[str, str], log: Path) -> None:
        ray = str(Path(sys.executable).parent / "ray")
        self._log = log
        self._output: IO[bytes] = log.open("wb")
        self._started = subprocess.Popen(
            [ray, "start", "--block", *arguments],
            env=env,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C is for the lab, which then ends its nodes
        )

    def wait_started(self) -> None:
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in self._log.read_text(errors="replace"):
            late = self._started.poll() is not None or time.monotonic() > deadline
            assert not late, f"a Ray node did not start:\n{self._log.read_text(errors='replace')}"
            time.sleep(POLL_S)

    def processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._started.pid)
            return [first, *first.children(recursive=True)]
        return []

    def kill(self) -> None:
        """SIGKILL to everything at once."""
        _kill(self.processes())
        self.gone()

    def gone(self) -> None:
        self._started.wait(10)
        self._output.close()


class Nodes:
    """A head without GPUs, and `workers` nodes with two logical GPUs each.

    Drivers are processes of their own: Ray ends those of a cluster that dies, and the judge must outlive all of them.
    """

    def __init__(self, workers: int, object_store_mb: int, env: Mapping[str, str], *, keep: bool) -> None:
        self.port = free_port()
        self._count = workers
        self._store = f"--object-store-memory={object_store_mb * 2**20}"
        modules = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        # Ray's workers are nice by default: on few cores the clients beside them would hardly let a new one start.
        settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONPATH": modules}
        self._env = {**os.environ, **settings, **token, **env}
        self._keep = keep
        self._folder = Path()
        self._address = ""
        self._head: Node | None = None
        self._workers: list[Node] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Up inside; no process and no folder is left after."""
        try:
            self.start()
            yield
        finally:
            self.kill()

    def start(self) -> None:
        """A fresh cluster, which knows nothing of an earlier one."""
        self._folder = Path(tempfile.mkdtemp(prefix="ray"))  # a short path: Ray puts sockets into it
        port = free_port()
        self._address = f"127.0.0.1:{port}"
        options = [f"--port={port}", f"--temp-dir={self._folder}", "--include-dashboard=false"]
        own_ports = [f"--ray-client-server-port={free_port()}", f"--dashboard-port={free_port()}"]
        system = f"--system-config={json.dumps(QUICK_TO_NOTICE)}"
        self._head = self._node("head", "--head", "--num-gpus=0", system, *options, *own_ports)
        self._head.wait_started()
        self.add(self._count)

    def add(self, count: int = 1) -> None:
        """Further nodes with GPUs."""
        for _ in range(count):
            sockets = self._sockets()
            name = f"node{time.monotonic_ns()}"
            resources = [f"--num-gpus={GPUS_PER_NODE}", f'--resources={{"{SEAT}": 1}}']
            self._workers.append(self._node(name, f"--address={self._address}", *resources))
            while self._sockets() == sockets and self._workers[-1].processes():
                time.sleep(POLL_S)  # two that start at the same moment choose the same name for it
        for node in self._workers[-count:]:
            node.wait_started()

    def kill_node(self, node: Node) -> None:
        self._workers.remove(node)
        node.kill()

    def kill(self) -> None:
        """SIGKILL to every process of the cluster at once."""
        nodes = self._all()
        _kill(self.processes())
        for node in nodes:
            node.gone()
        self._head, self._workers = None, []
        if self._keep:
            print(f"Ray's logs: {self._folder}/session_latest/logs", file=sys.stderr)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Put a configuration on the cluster; returns when Serve has taken it, not when it runs."""
        path = self._folder / "deploy.yaml"
        path.write_text(yaml.safe_dump(dict(config)))
        driver = self.driver("deploy", str(path))
        output, _ = driver.communicate()
        assert driver.returncode == 0, output.decode()

    def driver(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A driver of this package on its way, in a process of its own."""
        command = [sys.executable, "-W", "ignore", "-m", f"chaoslab.{module}", self._address, *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=self._env, process_group=0, **pipes)  # type: ignore[call-overload,no-any-return]

    def processes(self) -> list[psutil.Process]:
        """Every process of the cluster, those of its nodes first."""
        return [process for node in self._all() for process in node.processes()]

    def titled(self, text: str) -> list[psutil.Process]:
        """The processes whose title holds `text`: Ray calls an actor's process `ray::<actor>`."""
        return [process for process in self.processes() if text in title_of(process)]

    def node_of(self, pid: int) -> Node | None:
        """The node, not the head, on which a process runs."""
        found = (node for node in self._workers if pid in {process.pid for process in node.processes()})
        return next(found, None)

    def _node(self, name: str, *arguments: str) -> Node:
        ports = ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
        log = self._folder / f"{name}.log"
        return Node(["--num-cpus=1", self._store, *ports, *arguments], self._env, log)

    def _sockets(self) -> set[str]:
        return {path.name for path in self._folder.glob("session_latest/sockets/raylet*")}

    def _all(self) -> list[Node]:
        return [*self._workers, *([self._head] if self._head else [])]


def title_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
