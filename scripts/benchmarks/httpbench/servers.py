"""Starting a server on a port of its own, waiting until it answers, and leaving none of its processes behind."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

START_S, STOP_S, POLL_S = 180.0, 40.0, 0.1
MARK = "AOTI_SERVE_BENCH"


class Server(NamedTuple):
    """`command` makes the command line for a port."""

    name: str
    command: Callable[[int], list[str]]
    env: Mapping[str, str]
    folder: Path


class Failed(Exception):
    """A contender did not start, or does not answer as it should."""


class Running(NamedTuple):
    url: str
    mark: str
    first: subprocess.Popen[bytes]
    log: Path

    def processes(self) -> list[psutil.Process]:
        """All that the server consists of, also what has lost its parents."""
        return [process for process in psutil.process_iter() if _marked(process, self.mark)]

    def check_alive(self) -> None:
        if self.first.poll() is not None:
            raise Failed(f"it ended with status {self.first.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip(" ╰╯─│")]
        return " ".join(lines[-3:])[-400:]


@contextmanager
def running(server: Server, folder: Path, answers: Callable[[str], bool]) -> Iterator[Running]:
    """Up and answering inside, all its processes gone after; raises Failed if it does not get up."""
    port, mark, log = free_port(), secrets.token_hex(8), folder / f"{server.name}.log"
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", MARK: mark, **server.env}
    with log.open("wb") as output:
        first = subprocess.Popen(
            server.command(port), env=env, cwd=server.folder, stdout=output, stderr=subprocess.STDOUT
        )
    up = Running(f"http://127.0.0.1:{port}", mark, first, log)
    try:
        _wait_until(up, answers)
        yield up
    finally:
        stop(up)


def stop(server: Running) -> None:
    """Ask the first process, as a user does; end what it has left behind."""
    server.first.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.first.wait(STOP_S)
    for process in server.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    server.first.wait()
    while server.processes():
        time.sleep(POLL_S)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until(server: Running, answers: Callable[[str], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not answers(server.url):
        server.check_alive()
        if time.monotonic() > deadline:
            raise Failed(f"it does not answer after {START_S:g} s: {server.last_words()}")
        time.sleep(POLL_S)


def _marked(process: psutil.Process, mark: str) -> bool:
    """Nobody has waited for a zombie yet; it has ended all the same."""
    with suppress(psutil.Error):
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    return False
