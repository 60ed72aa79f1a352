"""What a server has written is its user's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import psutil

from tests.e2e.served import Eager, Server

CLOSED = stat.S_IRWXG | stat.S_IRWXO


def open_to_others(path: Path) -> bool:
    return bool(path.lstat().st_mode & CLOSED) and not path.is_symlink()


def sockets(server: Server) -> set[Path]:
    """The Unix sockets with a path that its processes listen on."""
    pids = {process.pid for process in server.launched.family()}
    found = (Path(str(entry.laddr)) for entry in psutil.net_connections("unix") if entry.pid in pids and entry.laddr)
    return {path for path in found if path.is_absolute() and path.exists()}


def test_the_store_and_all_in_it_are_closed_to_others(server: Server, eager: Eager) -> None:
    assert server.swap(eager.files["v2"]).status_code == 200
    paths = [server.store, *server.store.rglob("*")]
    assert {"CURRENT", "TERM", "audit.jsonl", "weights.safetensors"} <= {path.name for path in paths}
    assert [path for path in paths if open_to_others(path)] == []


def test_sockets_of_links_are_closed_to_others_by_themselves_or_by_a_folder(server: Server) -> None:
    ours = {path for path in sockets(server) if "ray" not in path.parts[2]}
    assert ours, "replicas and the coordinator listen"
    assert [path for path in ours if not any(map(closed_folder, path.parents))] == []


def closed_folder(folder: Path) -> bool:
    found = folder.stat()
    return not found.st_mode & CLOSED and found.st_uid == os.getuid()
