"""A tiny server that says what a test has written down for it, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from aoti_serve.cluster.status import CandidateStatus, Outcome, ReplicaProgress, SwapProgress, WeightsStatus
from aoti_serve.weights.rollout.state import RolloutPhase, RolloutProgress
from aoti_serve.weights.store.usage import DiskUse, StoredVersion
from aoti_serve.weights.swap.target import Receipt
from aoti_serve.weights.version import Version

NOW = 1_000_000_000.0
MB = 2**20


class Asked(NamedTuple):
    """One request."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    """`value` is sent as JSON, bytes as they are."""

    value: Any
    status: int = 200


class Break(NamedTuple):
    """Of an event stream: these bytes, then the connection is gone though more was promised."""

    last_words: bytes = b""


class Stay(NamedTuple):
    """Of an event stream: nothing more comes, and the connection stays."""


Told = dict[str, Any] | str | Break | Stay


class Played:
    """`replies` are by method and path; `streams` are what each connection to the events gets, then it ends.

    Who comes after the last stream waits until the end.
    """

    def __init__(self) -> None:
        self.replies: dict[str, Reply | Callable[[], Reply]] = {}
        self.streams: list[list[Told]] = []
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self.url = ""

    def reply(self, asked: Asked, method: str) -> Reply:
        self.asked.append(asked)
        found = self.replies.get(f"{method} {asked.path}", Reply({"error": f"no {method} {asked.path}"}, 404))
        return found if isinstance(found, Reply) else found()

    def asked_for(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]


@contextmanager
def playing() -> Iterator[Played]:
    played = Played()

    class Handler(_Handler):
        server_plays = played

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    played.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield played
    finally:
        played.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_plays: Played

    def do_GET(self) -> None:
        asked = self._asked()
        if asked.path.endswith("/events") and f"GET {asked.path}" not in self.server_plays.replies:
            self.server_plays.asked.append(asked)
            self._play()
        else:
            self._send(self.server_plays.reply(asked, "GET"))

    def do_POST(self) -> None:
        self._send(self.server_plays.reply(self._asked(), "POST"))

    def do_PUT(self) -> None:
        self._send(self.server_plays.reply(self._asked(), "PUT"))

    def do_DELETE(self) -> None:
        self._send(self.server_plays.reply(self._asked(), "DELETE"))

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _asked(self) -> Asked:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Asked(parts.path, dict(parse_qsl(parts.query)), headers, body)

    def _send(self, reply: Reply) -> None:
        content = reply.value if isinstance(reply.value, bytes) else json.dumps(reply.value).encode()
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # a client that leaves in time
            self.wfile.write(content)

    def _play(self) -> None:
        streams = self.server_plays.streams
        stream = streams.pop(0) if streams else None
        breaks = stream is not None and bool(stream) and isinstance(stream[-1], Break)
        self.send_response(200)
        if breaks:
            self.send_header("Content-Length", "1000000")
        self.end_headers()
        if stream is None:
            self.server_plays.closing.wait()
        for told in stream or []:
            if isinstance(told, Stay):
                self.server_plays.closing.wait()
                return
            self.wfile.write(_event(told))
            self.wfile.flush()


def _event(told: dict[str, Any] | str | Break) -> bytes:
    if isinstance(told, Break):
        return told.last_words
    text = told if isinstance(told, str) else json.dumps(told)
    return b": nothing new\n\nevent: weights\ndata: " + text.encode() + b"\n\n"


def version(number: int, **facts: Any) -> Version:
    known: dict[str, Any] = {
        "digest": f"{number:x}f3a9c1e88d2" + "0" * 52,
        "label": f"step {number}00",
        "created": NOW - 3600,
        "nbytes": 40 * MB,
        "tensors": 14,
        "parent": number - 1,
    }
    return Version(number=number, **(known | facts))


def stored(number: int, **facts: Any) -> StoredVersion:
    """The version in a listing: it alone holds a quarter of its file."""
    return StoredVersion.of(version(number, **facts), DiskUse(alone=10 * MB, added=20 * MB))


def receipt(replica: str, number: int, previous: int | None) -> Receipt:
    return Receipt(
        replica=replica,
        node="b4ba52f0c1d2e3",
        pid=4711,
        device="cuda:0",
        gpu_ids=("0",),
        epoch=7,
        version=number,
        digest=version(number).digest,
        package="5e" * 32,
        previous=previous,
        nbytes=40 * MB,
        stage_milliseconds=1312.44,
        commit_milliseconds=4.219,
    )


def weights_status(**facts: Any) -> WeightsStatus:
    """Version 3 answers on two replicas, version 2 is resident behind it."""
    known: dict[str, Any] = {
        "model": "m",
        "revision": 9,
        "epoch": 7,
        "settled": True,
        "current": version(3),
        "previous": version(2),
        "replicas": (receipt("r-one", 3, 2), receipt("r-two", 3, 2)),
        "candidate": None,
        "swap": None,
        "last": None,
    }
    return WeightsStatus(**(known | facts))


def candidate(**facts: Any) -> CandidateStatus:
    """Version 4, out for twelve minutes."""
    known: dict[str, Any] = {"version": version(4), "share": 0.05, "shadow": 0.1, "since": NOW - 720}
    return CandidateStatus(**(known | facts))


def rollout_progress(**facts: Any) -> RolloutProgress:
    """Of version 4, in the second of three steps."""
    known: dict[str, Any] = {
        "phase": RolloutPhase.TRYING,
        "step": 2,
        "steps": 3,
        "share": 0.25,
        "shadow": 0.1,
        "seconds_left": 41.4,
        "extended": 0,
        "waits_for": "",
        "requests": 120,
        "pairs": 30,
        "needed": 200,
        "outcome": None,
        "reason": "",
        "version": 4,
    }
    return RolloutProgress(**(known | facts))


def swap_progress(phase: str, *replicas: tuple[str, int, bool], **facts: Any) -> SwapProgress:
    """To version 4; of each replica its name, its megabytes, whether it is done."""
    known: dict[str, Any] = {"id": "9c0ffee01234", "action": "swap", "version": 4, "nbytes": 40 * MB}
    progress = tuple(ReplicaProgress(replica=name, nbytes=count * MB, done=done) for name, count, done in replicas)
    return SwapProgress(phase=phase, replicas=progress, **(known | facts))


def ended(**facts: Any) -> Outcome:
    known: dict[str, Any] = {
        "id": "77aa00bb11cc",
        "action": "swap",
        "version": 3,
        "outcome": "committed",
        "error": None,
        "seconds": 1.25,
        "phases": {"checking": 0.05, "staging": 1.1, "committing": 0.1},
        "ended": NOW - 75,
    }
    return Outcome(**(known | facts))


def as_json(status: WeightsStatus) -> Any:
    """As it comes over HTTP."""
    return json.loads(status.model_dump_json())
