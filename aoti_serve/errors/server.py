"""Errors of a server: its configuration, its state, and what a client of it meets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from aoti_serve.errors.base import AotiServeError


class InvalidConfig(AotiServeError, status=400):
    """A value of the configuration, of an option or of an argument cannot be used."""

    detail: str


class InvalidArguments(InvalidConfig, text="{place}: {detail}"):
    """Values of a section of the configuration cannot be used; `problems` are all of them, `detail` is their text."""

    place: str
    problems: Sequence[str] = ()


class Unauthorized(AotiServeError, status=401):
    """No token of this kind was sent, or a wrong one."""

    text = "{place} needs the header `Authorization: Bearer <{kind} token>`: {reason}"
    place: str
    kind: str
    reason: str


class TooManyWrongTokens(AotiServeError, status=429):
    """The client's address has sent many wrong tokens, so this one was not looked at. `retry_after` is in seconds."""

    text = "too many wrong tokens have come from this address; try again in {retry_after} s"
    retry_after: int


class AdminClosed(AotiServeError, status=403):
    """The server has no admin token, so its weights API is closed."""

    text = (
        "the weights API is closed: this server has no admin token; run `aoti-serve token` on its machine and restart "
        "it, or set `gateway.admin_tokens`"
    )


class Unavailable(AotiServeError, status=503):
    """The server cannot answer now; another try may succeed."""


class TryAgain(Unavailable):
    """The server cannot answer now, for the reason in `detail`."""

    detail: str


class Stopping(Unavailable, text="this server is being stopped and takes no new requests"):
    """The gateway answers the requests that it has, and no others; the connection ends with this answer."""


class QueueFull(Unavailable, grpc="RESOURCE_EXHAUSTED"):
    """The queue holds its limit of rows or bytes. `retry_after` is in whole seconds."""

    text = (
        "model '{model}': the queue is full: {waiting}, the limit is {limit} ({setting}); try again in {retry_after} s"
    )
    model: str
    waiting: str
    limit: str
    setting: str
    retry_after: int


class WaitTooLong(QueueFull):
    """The rows before this request would not leave within the time that a request may wait, at the pace measured."""

    text = "model '{model}': it would wait {waiting}, the limit is {limit} ({setting}); try again in {retry_after} s"


class NoReplica(Unavailable):
    """No replica of the model lives, and none has come for as long as a request may wait."""

    text = (
        "model '{model}': no replica of it lives; try again in {retry_after} s (GET /v2/health/ready says why, and "
        "batching.max_queue_wait_ms how long a request waits for one)"
    )
    model: str
    retry_after: int

    @classmethod
    def since(cls, model: str, seconds: float) -> NoReplica:
        """None has lived for so long; the longer, the later is another try worth while, after half a minute at most."""
        return cls(model=model, retry_after=min(max(1, math.ceil(seconds)), 30))


class ReadingTooMuch(Unavailable, grpc="RESOURCE_EXHAUSTED"):
    """All requests together hold as much as they may: this one was not read, or its answer was not kept."""

    text = (
        "the requests that are being read or answered hold {held} bytes, the limit is {limit} "
        "(gateway.max_reading_bytes); try again in {retry_after} s"
    )
    held: int
    limit: int
    retry_after: int


class TooManyCalls(Unavailable, grpc="RESOURCE_EXHAUSTED"):
    """A gateway has as many gRPC calls under way as it may have connections."""

    text = "this gateway has {limit} calls under way (gateway.max_connections); try again in {retry_after} s"
    limit: int
    retry_after: int


class VersionsDiffer(Unavailable):
    """A request larger than a batch found no moment in which one version answered for all of its pieces."""

    text = "model '{model}': the weights changed {rounds} times while the pieces of this request ran"
    model: str
    rounds: int


class DeadlineExceeded(AotiServeError, status=504, text="model '{model}': no answer within {timeout} s"):
    """The request's own deadline has passed; nothing more is spent on it."""

    model: str
    timeout: float


class ReplicaBehind(Unavailable):
    """The replica did not reach the fence in time."""

    text = "model '{model}': a replica is at epoch {epoch}, the request asks for {fence} or later"
    model: str
    epoch: int
    fence: int


class ReplicaDied(Unavailable, text="model '{model}': the replica died during this run"):
    """A replica's process ended during a run, by this request's fault or not; another one may do the run again."""

    model: str


class LinkBroken(Unavailable, text="a link is broken: {detail}"):
    """The other end of a link has sent what it never sends, or has stopped."""

    detail: str


class LinkRefused(Unavailable, text="no link: {detail}"):
    """The other end of a link does not belong to this application, or speaks another version of it."""

    detail: str


class ReplicaFailed(AotiServeError, text="the replica failed ({raised}); its log has it"):
    """A replica raised an error that is none of ours: a defect. `detail` is its text, for the log."""

    raised: str
    detail: str


class ReplicaAtFault(AotiServeError, text="model '{model}': this replica must be replaced: {fault}"):
    """No run of the replica ends any more, or all of them fail, also those that have succeeded before."""

    model: str
    fault: str


class ContainerClosed(Unavailable, text="the container is closed"):
    """The container has been closed."""


class RuntimeFailed(AotiServeError, text="{call}: {detail}"):
    """A run, or a step of the weights, has failed. `detail` is AOTInductor's own text, or ours."""

    call: str
    detail: str


class StartFailed(AotiServeError):
    """The server could not be started."""

    detail: str


class PortTaken(AotiServeError):
    """Another process listens at the gateway's port."""

    text = (
        "port {port} of {host} is taken by {holder}: end it, or choose another `{key}`; if it is Serve's own proxy, "
        "set `proxy_location: Disabled`, or `{key}: null` to do without a port of the gateway's own"
    )
    port: int
    host: str
    holder: str
    key: str = "gateway.http_port"


class PortHeld(StartFailed, text="port {port} is taken by {holder}{detail}"):
    """Another process listens at a port that a server needs; `detail` says what to do. `pid` is None if it is unknown.

    One that was `left_behind` by a server that was killed ends by itself. Found before anything is started; `PortTaken`
    is what a gateway raises.
    """

    port: int
    holder: str
    pid: int | None
    left_behind: bool = False


class BadCertificate(StartFailed, text="cannot serve TLS with certificate {certificate} and key {key}: {detail}"):
    """The files of `gateway.tls` are missing, unreadable, or do not belong together."""

    certificate: Path | str
    key: Path | str
