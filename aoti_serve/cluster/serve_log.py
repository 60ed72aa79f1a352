"""Our processes' lines in Serve's log: its files, its form (text or JSON), its level."""

from __future__ import annotations

import logging

from aoti_serve.errors import AotiServeError

REFUSED = "Request failed."  # what Serve says of a call that raises, with a traceback


def join_serve_log() -> None:
    """Let the loggers `aoti_serve.*` of this process write where Serve writes. For each process of ours in Serve.

    Serve's own line for each call is left out: coordinators and gateways are called all the time. So is its traceback
    of a call that was refused: that is told where it is decided, and the caller's error is no event.
    """
    serve = logging.getLogger("ray.serve")
    serve.addFilter(_is_no_call)
    serve.addFilter(_is_no_refusal)
    logging.getLogger("aoti_serve").parent = serve  # not its handlers: Serve changes them with its configuration


def _is_no_call(record: logging.LogRecord) -> bool:
    return not getattr(record, "serve_access_log", False)


def _is_no_refusal(record: logging.LogRecord) -> bool:
    raised = record.exc_info[1] if record.exc_info else None
    refused = isinstance(raised, AotiServeError) and raised.http_status < 500
    return not (refused and record.getMessage() == REFUSED)
