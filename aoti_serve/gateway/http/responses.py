"""Responses without tensors: JSON, and errors with their status."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from aoti_serve.errors import AotiServeError, Stopping, shortened
from aoti_serve.gateway.client_facts import defect_text
from aoti_serve.gateway.request_log import note_error

READ = ["GET", "HEAD"]  # the methods of routes that read; load balancers ask with HEAD


def json_response(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value, default=BaseModel.model_dump), status, media_type="application/json")


def error_reply(text: str, status: int, kind: str | None = None) -> Response:
    """An error in the form of the protocol, a kilobyte at most; `kind` is the class of one that is ours."""
    return json_response({"error": shortened(text)} | ({"type": kind} if kind else {}), status)


def error_response(error: AotiServeError) -> Response:
    """The response for an error that was raised on purpose; its text is for the client. The log hears of it."""
    note_error(error)
    response = error_reply(str(error), error.http_status, type(error).__name__)
    if error.http_status in (429, 503):
        response.headers["retry-after"] = str(error.facts.get("retry_after", 1))
    if isinstance(error, Stopping):
        response.headers["connection"] = "close"  # the next one goes to another gateway
    if error.http_status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def internal_error(error: Exception) -> Response:
    return error_reply(defect_text(error), 500)
