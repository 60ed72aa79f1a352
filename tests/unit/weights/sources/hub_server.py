"""A stand-in for Hugging Face's hub on the loopback: one repository, whose branch `main` names its newest commit."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = "org/repo"


class Hub:
    """`commits` are the files of each commit, by path."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.main = ""
        self.url = ""
        self.asked: list[str] = []
        self.down = False

    def commit(self, **files: bytes) -> str:
        """Commit these files on top; `__` stands for a slash, and `_dot_` for a dot."""
        named = {path.replace("__", "/").replace("_dot_", "."): content for path, content in files.items()}
        whole = self.commits.get(self.main, {}) | named
        self.main = hashlib.sha1(json.dumps([self.main, *sorted(named)]).encode()).hexdigest()
        self.commits[self.main] = whole
        return self.main

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.main if revision == "main" else revision)


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        plays = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    plays: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.plays.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.plays.down:
            self._send(b"{}", 404)
            return
        for start, answer in self._answers(body).items():
            if path.startswith(start):
                answer(path.removeprefix(start))
                return
        self._send(b"{}", 404)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None: ...

    def _answers(self, body: bytes) -> dict[str, Any]:
        api = f"/api/models/{REPOSITORY}"
        return {
            f"{api}/revision/": self._revision,
            f"{api}/tree/": self._tree,
            f"{api}/paths-info/": lambda rest: self._paths(rest, body),
            f"/{REPOSITORY}/resolve/": self._file,
            api: lambda rest: self._revision("main"),
        }

    def _revision(self, revision: str) -> None:
        files = self.plays.files(revision)
        if files is None:
            self._send(b"{}", 404, X_Error_Code="RevisionNotFound")
            return
        sha = self.plays.main if revision == "main" else revision
        self._json({"id": REPOSITORY, "modelId": REPOSITORY, "sha": sha, "siblings": []})

    def _tree(self, rest: str) -> None:
        revision, _, folder = rest.partition("/")
        files = self.plays.files(revision)
        if files is None:
            self._send(b"{}", 404, X_Error_Code="RevisionNotFound")
            return
        inside = {path: content for path, content in files.items() if path.startswith(folder)}
        folders = {path.rpartition("/")[0] for path in inside} - {"", folder.rstrip("/")}
        entries = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        self._json(entries + [_entry(path, content) for path, content in inside.items()])

    def _paths(self, revision: str, body: bytes) -> None:
        files = self.plays.files(revision) or {}
        try:
            wanted = json.loads(body)["paths"]
        except ValueError:
            wanted = [unquote(part.partition("=")[2]) for part in body.decode().split("&") if part.startswith("paths")]
        self._json([_entry(path, files[path]) for path in wanted if path in files])

    def _file(self, rest: str) -> None:
        revision, _, path = rest.partition("/")
        content = (self.plays.files(revision) or {}).get(path)
        if content is None:
            self._send(b"{}", 404, X_Error_Code="EntryNotFound")
            return
        begin, _, end = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        piece = content[int(begin) : int(end) + 1 if end else None]
        self._send(piece, 206 if "range" in self.headers else 200, ETag=f'"{_oid(content)}"', X_Repo_Commit=revision)

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode())

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
