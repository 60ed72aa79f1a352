"""The head of a Ray cluster, before it is joined. Ray itself would try for minutes, and say little of it."""

from __future__ import annotations

import os
import socket

from aoti_serve.errors import TryAgain

CLUSTER_ANSWER_S = 1.5


def why_unreachable(address: str) -> str | None:
    """Why no cluster can be joined at `address`; None if something listens there. Takes two seconds at most."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return f"'{address}' is no address of a Ray cluster: write 'auto', or host:port of its head"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CLUSTER_ANSWER_S).close()
    except ConnectionRefusedError:
        return f"nothing listens at {address}"
    except TimeoutError:
        return f"nobody answers at {address} within {CLUSTER_ANSWER_S:g} s"
    except (OSError, OverflowError) as error:
        return f"cannot reach {address}: {getattr(error, 'strerror', None) or error}"
    return None


def join_named_cluster() -> None:
    """Join the cluster that RAY_ADDRESS names, in the calling thread: in another Ray could set up no signals.

    Left to itself Ray would start a cluster of its own, in which nothing is served, or wait for one for minutes. Who
    wants the logs of the cluster here joins it before, with `ray.init()`.
    Raises Unavailable.
    """
    import ray  # `down` looks for a cluster before it waits for Ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        raise TryAgain(
            detail="this process has not joined a Ray cluster: set RAY_ADDRESS, and RAY_AUTH_MODE=token if the cluster "
            "asks for its token (`aoti-serve up` prints both), or call ray.init() first"
        )
    if ":" in address and "://" not in address and (why := why_unreachable(address)):
        raise TryAgain(detail=f"RAY_ADDRESS: {why}")
    ray.init(log_to_driver=False)  # else what all processes of the cluster log would be printed here
