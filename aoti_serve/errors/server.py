"""Errors of a server: its configuration, its state, and what a client of it meets."""

from __future__ import annotations

from aoti_serve.errors.base import AotiServeError


class InvalidConfig(AotiServeError, status=400):
    """The configuration names something that cannot be."""


class Unauthorized(
    AotiServeError, status=401, text="the weights API needs the header `Authorization: Bearer <admin token>`: {reason}"
):
    """No admin token was sent, or a wrong one."""


class AdminClosed(
    AotiServeError,
    status=403,
    text="the weights API is closed: no admin token is configured; run `aoti-serve token`, then restart",
):
    """No admin token is configured, so nothing can be changed."""


class Unavailable(AotiServeError, status=503):
    """The server cannot answer now; another try may succeed."""


class Stopping(Unavailable, text="this server is being stopped and takes no new requests"):
    """The gateway answers what it has, and nothing else; the connection ends with this answer."""


class QueueFull(
    Unavailable,
    text=(
        "model '{model}': the queue is full: {waiting}, the limit is {limit} ({setting}); try again in {retry_after} s"
    ),
):
    """As much waits as may wait: in rows, in bytes, or in time. `retry_after` is in whole seconds."""


class ReadingTooMuch(
    Unavailable,
    text=(
        "the requests that are being read or answered hold {held} bytes, the limit is {limit} "
        "(gateway.max_reading_bytes); try again in {retry_after} s"
    ),
):
    """The bodies of all requests together are as large as they may be; this one was not read."""


class VersionsDiffer(
    Unavailable, text="model '{model}': the weights changed {rounds} times while the pieces of this request ran"
):
    """A request larger than a batch found no moment in which one version answered for all of its pieces."""


class DeadlineExceeded(AotiServeError, status=504, text="model '{model}': no answer within {timeout} s"):
    """The request's own deadline has passed; nothing more is spent on it."""


class ReplicaBehind(Unavailable, text="replica {replica} is at epoch {epoch}, the request asks for {fence} or later"):
    """The replica did not reach the fence in time."""


class ReplicaDied(Unavailable, text="model '{model}': the replica died during this run"):
    """A replica's process ended during a run, by this request's fault or not; another one may do the run again."""


class LinkBroken(Unavailable, text="the link to a replica is broken: {detail}"):
    """What came over a link is nothing that the other end would send, or it has stopped."""


class LinkRefused(Unavailable, text="no link to a replica: {detail}"):
    """The other end of a link does not belong to this application, or speaks another version of it."""


class ReplicaFailed(AotiServeError, text="the replica failed ({raised}); its log has it"):
    """A replica raised what is none of our errors: a defect. `detail` is in its own words, for the log."""


class ContainerClosed(Unavailable, text="the container is closed"):
    """The container has been closed."""


class RuntimeFailed(AotiServeError, text="{call}: {detail}"):
    """AOTInductor's own error text, unchanged."""


class ServerUnreachable(AotiServeError, text="no aoti-serve server answers at {url}: {detail}"):
    """Nobody answers at the URL."""


class ServerRefused(AotiServeError, text="{detail}"):
    """The server answered with an error; the text is its own."""

    @property
    def http_status(self) -> int:
        return int(self.facts["status"])


class StartFailed(AotiServeError):
    """The server could not be started."""


class PortTaken(
    StartFailed,
    text=(
        "port {port} of {host} is taken by {holder}: end it, or choose another `gateway.http_port`; if it is Serve's "
        "own proxy, set `proxy_location: Disabled`, or `gateway.http_port: null` to answer through Serve's proxies"
    ),
):
    """Somebody else listens where the gateway should."""


class BadCertificate(StartFailed, text="cannot serve TLS with certificate {certificate} and key {key}: {detail}"):
    """The files of `gateway.tls` are missing, unreadable, or do not belong together."""
