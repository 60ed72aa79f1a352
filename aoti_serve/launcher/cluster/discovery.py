"""Find the Ray cluster to join, and check that it answers. This needs seconds; Ray itself would try for minutes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from aoti_serve.cluster.head import CLUSTER_ANSWER_S, why_unreachable
from aoti_serve.errors import StartFailed
from aoti_serve.launcher.cluster.connection import AUTH_MODE, PRIVATE

HEAD_AT = "--gcs-address="  # the argument that tells a raylet its head's address
PING = "/ray.rpc.NodeInfoGcsService/GetClusterId"


def cluster_at(address: str) -> str:
    """The address of the cluster at host:port, which answers. 'auto': at RAY_ADDRESS, or the only one on this machine.

    Takes two seconds at most. If the cluster asks for a token and this machine has one, Ray is set up to send it.
    Raises StartFailed; its text says what to do.
    """
    found = _the_one() if address == "auto" else address
    if reason := why_unreachable(found):
        raise StartFailed(detail=reason)
    if asks_token(found):
        _offer_token(found)
    return found


def running_clusters() -> list[str]:
    """The addresses of the clusters that have a node on this machine and a head that listens."""
    return sorted(address for address in set(_told_raylets()) if why_unreachable(address) is None)


def asks_token(address: str) -> bool:
    """True if the cluster refuses callers without a token. Raises StartFailed if a listener there is no cluster."""
    return not _accepts(address, ())


def close_token() -> str | None:
    """Make Ray's token file readable for its owner only: a reader of the token can run code in the cluster.

    Returns what to tell the user; None if others could not read it.
    """
    path = _token_path()
    try:
        if not path.stat().st_mode & PRIVATE:
            return None
        path.chmod(0o600)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"warning: others may read {path}, Ray's token, and so run code in this cluster ({error.strerror})"
    return f"note: others could read {path}, Ray's token, and so run code in this cluster; it is yours alone now"


def _the_one() -> str:
    named = os.environ.get("RAY_ADDRESS", "")
    if named not in ("", "auto", "local"):
        return named
    found = running_clusters()
    if not found:
        raise StartFailed(detail="no Ray cluster runs on this machine; start one, or name another with --address")
    if len(found) > 1:
        raise StartFailed(
            detail=f"{len(found)} Ray clusters run on this machine, {', '.join(found)}: choose one with --address"
        )
    return found[0]


def _told_raylets() -> Iterable[str]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "raylet":
                yield from (word.removeprefix(HEAD_AT) for word in process.cmdline() if word.startswith(HEAD_AT))


def _offer_token(address: str) -> None:
    token, where = _token()
    if token is None:
        detail = f"the Ray cluster at {address} asks for its token, and there is none here: copy the head's to {where}"
        raise StartFailed(detail=detail)
    if os.environ.get(AUTH_MODE, "token").lower() != "token":
        raise StartFailed(detail=f"the Ray cluster at {address} asks for its token: set {AUTH_MODE}=token here as well")
    if not _accepts(address, (("authorization", f"Bearer {token}"),)):
        raise StartFailed(detail=f"the Ray cluster at {address} does not accept the token in {where}")
    os.environ[AUTH_MODE] = "token"


def _token() -> tuple[str | None, str]:
    """Ray's token or None, and the place where it is or should be, looked up in Ray's own order."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    path = _token_path()
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip() or None, str(path)
    return None, str(path)


def _token_path() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _accepts(address: str, metadata: tuple[tuple[str, str], ...]) -> bool:
    """True if the head answers a call with these headers. The call only asks for the cluster's id."""
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            ping: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PING)
            ping(b"", timeout=CLUSTER_ANSWER_S, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return False
            detail = f"what listens at {address} does not answer as the head of a Ray cluster does"
            raise StartFailed(detail=detail) from error
    return True
