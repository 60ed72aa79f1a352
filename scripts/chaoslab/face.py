"""The weights API of a running server, and its events as they come."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from chaoslab.model import NAME

TOKEN = "the-token-of-the-chaos"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
Status = dict[str, Any]
Fits = Callable[[Status], bool]
RECONNECT_S = 0.05


class Face:
    """What an administrator calls; every call on a connection of its own, as after a fault the old ones are dead."""

    def __init__(self, port: int) -> None:
        self._weights = f"http://127.0.0.1:{port}/v2/models/{NAME}/weights"

    def swap(self, content: bytes, label: str, **params: str) -> httpx.Response:
        headers = ADMIN | {"Content-Type": "application/octet-stream"}
        return self._post("", content=content, headers=headers, params={"label": label} | params)

    def swap_uri(self, **body: str) -> httpx.Response:
        return self._post("", json=body, headers=ADMIN)

    def rollback(self, **body: int) -> httpx.Response:
        return self._post("/rollback", json=body, headers=ADMIN)

    def expose(self, **body: str) -> httpx.Response:
        return self._post("/candidate", json=body, headers=ADMIN)

    def promote(self) -> httpx.Response:
        return self._post("/promote", headers=ADMIN)

    def withdraw(self) -> httpx.Response:
        return self._post("/withdraw", headers=ADMIN)

    def status(self) -> Status:
        """Raises httpx.HTTPError while there is none."""
        answer = httpx.get(self._weights, headers=ADMIN, timeout=10, trust_env=False).raise_for_status()
        status: Status = answer.json()
        return status

    def events(self) -> Iterator[Status]:
        """Until the connection breaks."""
        url = f"{self._weights}/events"
        with httpx.stream("GET", url, headers=ADMIN, timeout=10, trust_env=False) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def _post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(
            self._weights + path, timeout=httpx.Timeout(10, read=180, write=60), trust_env=False, **options
        )


class Moment:
    """Something to do once, at the first status that fits; done by whoever hears of it, so at once."""

    def __init__(self, fits: Fits, act: Callable[[Status], None]) -> None:
        self._fits = fits
        self._act = act
        self._came = threading.Event()

    def offer(self, status: Status) -> bool:
        """Whether this was the moment."""
        if not self._fits(status):
            return False
        self._act(status)
        self._came.set()
        return True

    def wait(self, timeout: float) -> bool:
        return self._came.wait(timeout)


class Events:
    """Follows the events for as long as it runs, over however many connections that takes."""

    def __init__(self, face: Face) -> None:
        self._face = face
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._last: Status | None = None
        self._moments: list[Moment] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(10)  # it may be reading from a gateway that says nothing any more

    def at(self, fits: Fits, act: Callable[[Status], None] = lambda status: None) -> Moment:
        """Act at the first status that fits: the present one, or one to come."""
        moment = Moment(fits, act)
        with self._lock:
            if self._last is None or not moment.offer(self._last):
                self._moments.append(moment)
        return moment

    def forget(self) -> None:
        """Nobody waits for anything any more."""
        with self._lock:
            self._moments.clear()

    def _follow(self) -> None:
        while not self._stop.is_set():
            with suppress(httpx.HTTPError, json.JSONDecodeError):
                for status in self._face.events():
                    self._take(status)
                    if self._stop.is_set():
                        return
            with self._lock:
                self._last = None
            self._stop.wait(RECONNECT_S)

    def _take(self, status: Status) -> None:
        with self._lock:
            self._last = status
            self._moments = [moment for moment in self._moments if not moment.offer(status)]


def in_phase(name: str) -> Fits:
    """Fits while a swap is in this phase."""
    return lambda status: bool(status["swap"]) and status["swap"]["phase"] == name


def has_staged(pid: int) -> Fits:
    """Fits once the replica of this process holds the version of the swap in progress, which others do not yet."""

    def fits(status: Status) -> bool:
        replica = next((held["replica"] for held in status["replicas"] if held["pid"] == pid), None)
        return in_phase("staging")(status) and replica in {
            progress["replica"] for progress in status["swap"]["replicas"] if progress["done"]
        }

    return fits
