"""Our processes' lines in Serve's log: its files, its form (text or JSON), its level."""

from __future__ import annotations

import logging


def join_serve_log() -> None:
    """Let the loggers `aoti_serve.*` of this process write where Serve writes. For each process of ours in Serve.

    Serve's own line for each call is left out: coordinators and gateways are called all the time.
    """
    serve = logging.getLogger("ray.serve")
    serve.addFilter(_is_no_call)
    logging.getLogger("aoti_serve").parent = serve  # not its handlers: Serve changes them with its configuration


def _is_no_call(record: logging.LogRecord) -> bool:
    return not getattr(record, "serve_access_log", False)
