"""The lines that a gateway writes about requests, HTTP's and gRPC's: access lines on demand, and failures of ours."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextvars import ContextVar

from aoti_serve.errors import AotiServeError, quantity

access = logging.getLogger("aoti_serve.access")
failures = logging.getLogger("aoti_serve.failures")
LONGEST_METHOD, LONGEST_TEXT = 16, 256
DEFECT = 500
NOT_SERVED = 501  # whatever the server's state: it is the client that asks for what is not there
REST_S = 1.0  # between two lines about requests that could not be answered then

_noted: ContextVar[RequestNote | None] = ContextVar("aoti_serve.request", default=None)


def note_model(name: str) -> None:
    """Note the model that the request that this task answers is about."""
    if note := _noted.get():
        note.model = name


def note_run(version: int, replica: str | None) -> None:
    """Note the weights version and the replica that have computed the answer of the request that this task answers."""
    if note := _noted.get():
        note.version, note.replica = version, replica


def note_error(error: Exception) -> None:
    """Note the error with which the request that this task answers ends."""
    if note := _noted.get():
        note.error = error


class RequestNote:
    """The facts of one request, as a context in which it is answered: at its end the log gets its lines.

    `status` is HTTP's, or gRPC's by its name; 0 means that the client went away before it had an answer.
    """

    status: int | str = 0
    model: str | None = None
    version: int | None = None
    replica: str | None = None
    error: Exception | None = None
    _began = 0.0

    def __init__(self, log: RequestLog, client: object, method: str, path: str, identity: str) -> None:
        self._log = log
        self.client = client
        self.method = method
        self.path = path
        self.identity = identity

    def __enter__(self) -> RequestNote:
        _noted.set(self)  # for this task alone, which ends with the request
        if self._log.rate:
            self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        log = self._log
        if self.error is not None:
            log.failed(self)
        if log.rate and log.samples():
            log.accessed(self, time.monotonic() - self._began)


class RequestLog:
    """Writes a line for the part `rate` of all requests, and for requests that fail without their clients' fault.

    Such a line names the error; none of them holds tensors or tokens. What the server only could not do at the time
    (overload, deadlines) has one line a second at most, which counts the others.
    """

    def __init__(
        self, rate: float, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self.rate = rate
        self._clock = clock
        self._chance = chance
        self._written = -REST_S
        self._silent = 0
        if rate:
            access.setLevel(logging.INFO)

    def samples(self) -> bool:
        """Whether this request gets an access line."""
        return self.rate > 0 and self._chance() < self.rate

    def accessed(self, note: RequestNote, seconds: float) -> None:
        name = type(note.error).__name__ if note.error else ""
        client, method, path = _client(note.client), note.method[:LONGEST_METHOD], _printable(note.path)
        facts = client, method, path, note.status, seconds * 1e3
        extra = _fields(client, note.status, name) | {
            "request_id": note.identity,
            "method": method,
            "path": path,
            "model": note.model,
            "weights_version": note.version,
            "ran_on": note.replica,
            "duration_ms": round(seconds * 1e3, 3),
        }
        text = "" if note.version is None else f" version {note.version}"
        access.info('%s "%s %s" %s %.1f ms%s%s', *facts, text, f" {name}" if name else "", extra=extra)

    def refused(self, client: object, status: int, text: str) -> None:
        """A request that was refused before it was one: its head, or its connection, is at fault."""
        if self.samples():
            address = _client(client)
            access.info('%s "" %s %s', address, status, text, extra=_fields(address, status, text))

    def failed(self, note: RequestNote) -> None:
        """A request has ended with an error. What is a client's fault is in the access log only."""
        error = note.error
        assert error is not None
        status = error.http_status if isinstance(error, AotiServeError) else 0  # a defect's traceback is logged already
        if status == DEFECT:
            self._write(logging.ERROR, note, error, "")
        elif status > DEFECT and status != NOT_SERVED:
            now = self._clock()
            if now - self._written >= REST_S:
                others = f" ({quantity(self._silent, 'others')} since the last such line)" if self._silent else ""
                self._written, self._silent = now, 0
                self._write(logging.WARNING, note, error, others)
            else:
                self._silent += 1

    def _write(self, level: int, note: RequestNote, error: Exception, others: str) -> None:
        name = type(error).__name__
        extra = {"request_id": note.identity, "model": note.model, "error": name}
        failures.log(level, "%s: %s: %s%s", _printable(note.path), name, _printable(str(error)), others, extra=extra)


def _fields(client: str, status: int | str, error: str) -> dict[str, object]:
    """All fields of an access line in JSON, as they are where nothing else is known."""
    fields: dict[str, object] = dict.fromkeys(("method", "path", "model", "weights_version", "ran_on", "duration_ms"))
    return fields | {"request_id": "", "client": client, "status": status, "error": error}


def _client(client: object) -> str:
    """`address:port`, of a pair, or as gRPC names its peers."""
    return f"{client[0]}:{client[1]}" if isinstance(client, tuple) else str(client or "unknown")


def _printable(text: str) -> str:
    """Its beginning, on one line."""
    return text[:LONGEST_TEXT].encode("unicode_escape").decode()
