"""Errors that commands meet."""

from __future__ import annotations

from pathlib import Path

from aoti_serve.errors.base import AotiServeError


class WrongUsage(AotiServeError, status=400, text="{detail}; see {command} --help"):
    """A command was called with words that it does not take, or without one that it needs; told so with `--json`."""

    command: str
    detail: str


class ServerUnreachable(AotiServeError, text="no aoti-serve server answers at {url}: {detail}"):
    """No server answers at the URL."""

    url: str
    detail: str


class CertificateNotTrusted(AotiServeError):
    """A server answers at the URL, with a certificate that is not trusted here; `detail` is OpenSSL's reason."""

    text = (
        "a server answers at {url}, but its certificate is not trusted here ({detail}): set SSL_CERT_FILE to the PEM "
        "file of the authority that has signed it, and ask for the server by a name that the certificate has"
    )
    url: str
    detail: str


class NoAdminToken(AotiServeError):
    """The command line has no token to send, so it did not ask the server."""

    text = (
        "this command has no admin token to send: set {variable}, or copy the one of the server at {url} to {path} "
        "(mode 600)"
    )
    url: str
    path: Path | str
    variable: str


class ServerRefused(AotiServeError):
    """The server answered with an error; the status and the words are the server's own.

    `kind` is the class of the server's error, if it is one of ours.
    """

    code: int
    detail: str
    kind: str | None = None

    @property
    def http_status(self) -> int:
        return self.code


class RolloutFailed(AotiServeError):
    """The rollout that a command waited for has ended, and its version does not answer."""

    text = "version {version} has not passed its rollout ({outcome}); version {current} answers"

    version: int
    outcome: str
    current: int
