"""A reader who does what a page says, from its top: writes its files, pastes its commands, looks at what they print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.served import LAST_LINE, ROOT, TOKEN, Launched, free_port
from tests.pages import Block, blocks_of

URL = "http://127.0.0.1:8000"  # on every page
SERVES = re.compile(r"aoti-serve (up|demo)(?! traffic)\b")
ASKS = re.compile(r"aoti-serve demo traffic$")
JOINS = re.compile(r"RAY_AUTH_MODE=token RAY_ADDRESS=\S+")
TAKES_PORTS = re.compile(r"aoti-serve (up|demo|check)(?! traffic)\b[^\n]*")


class Reader(ExitStack):
    """Works in a folder that looks like the repository with its demo, at free ports.

    At the end of the context what still goes on is ended with Ctrl-C, and must have gone well.
    """

    def __init__(self, folder: Path, digits: Path) -> None:
        super().__init__()
        self._folder, self._going_on = folder, dict[str, Launched]()
        port = free_port()
        self._url, self._ports = f"http://127.0.0.1:{port}", ports_at(port)
        for name in ("configs", "examples"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "var").mkdir()
        for name in ("var/digits", "aoti-serve-demo"):
            (folder / name).symlink_to(digits)
        (kept := folder / ".config" / "aoti-serve").mkdir(parents=True)
        (kept / "admin-token").write_text(TOKEN)

    def follow(self, page: str) -> None:
        """Do all that the page says. What it has started ends with it."""
        went_on = set(self._going_on)
        for block in blocks_of(page):
            if block.title:
                self._write(block)
            elif block.is_pasted:
                self.paste(block.text, block.printed)
        for command in self._going_on.keys() - went_on:
            self._end(command)

    def paste(self, text: str, printed: str = "") -> None:
        """Run the lines as one script, which must print this; or start what goes on, unless it goes on already."""
        command = self._here(text).strip()
        if goes_on(text):
            self._start(command)
        else:
            self._run(command, printed)

    def _write(self, block: Block) -> None:
        (self._folder / block.title).write_text(self._here(block.text))

    def _here(self, text: str) -> str:
        """As it is on the page, but for the ports and the cluster."""
        text = JOINS.sub(self._cluster, text).replace(URL, self._url)
        return TAKES_PORTS.sub(lambda found: f"{found[0]} {self._ports_for(found[1])}", text)

    def _cluster(self, shown: re.Match[str]) -> str:
        """The variables that a server has printed."""
        printed = (JOINS.search(launched.output) for launched in self._going_on.values())
        return next((found[0] for found in printed if found), shown[0])

    def _ports_for(self, command: str) -> str:
        """What is only checked is checked at other ports: the demo goes on here, where a reader has ended it."""
        return ports_at(free_port()) if command == "check" else self._ports

    def _start(self, command: str) -> None:
        if command not in self._going_on:
            launched = Launched(["bash", "-c", f"exec env {command}"], self._folder, self._environment())
            self._going_on[command] = launched
            self.callback(launched.stop)
            launched.wait_for("second 1" if ASKS.search(command) else LAST_LINE, timeout=400)

    def _run(self, command: str, printed: str) -> None:
        """A command that fails is one that the page shows to fail."""
        environment = os.environ | self._environment()
        shell = ["bash", "-e", "-c", command]
        done = subprocess.run(
            shell, cwd=self._folder, env=environment, capture_output=True, text=True, check=False, timeout=400
        )
        said = f"{done.stdout}{done.stderr}"
        assert (done.returncode == 0) == (not printed.startswith("error: ")), f"{command}\n{said}"
        assert_prints(printed, said)

    def _end(self, command: str) -> None:
        launched = self._going_on.pop(command)
        launched.assert_leaves_nothing(lambda: launched.process.send_signal(signal.SIGINT))
        if ASKS.search(command):
            assert re.search(r"^[1-9]\d* answers, 0 errors$", launched.output, re.MULTILINE), launched.output

    def _environment(self) -> dict[str, str]:
        return {"HOME": str(self._folder), "AOTI_SERVE_URL": self._url, "COLUMNS": "200"}


def ports_at(port: int) -> str:
    return f"--port {port} --grpc-port {free_port()} --metrics-port 0"


def goes_on(text: str) -> bool:
    """True for what ends with Ctrl-C: a server, and traffic."""
    return bool(SERVES.search(text) or ASKS.search(text.strip()))


def assert_prints(printed: str, said: str) -> None:
    """Each line that a page shows is part of a line that was said, in its order; `...` is what differs."""
    rest = said
    for line in printed.splitlines():
        words = [".*?".join(map(re.escape, word.split("..."))) for word in line.split()]
        found = re.search(r"[^\S\n]+".join(words), rest)
        assert found, f"nothing like this was said: {line}\n{said}"
        rest = rest[found.end() :]
