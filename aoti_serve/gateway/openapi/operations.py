"""Operations of an OpenAPI document, and the answers that they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

OpenApi = dict[str, Any]

_TEXT: OpenApi = {"type": "string", "minLength": 1}
ERROR: OpenApi = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": _TEXT, "type": _TEXT},
    "additionalProperties": False,
}
_WHOLE: OpenApi = {"type": "integer", "minimum": 1}
_LATER: OpenApi = {"Retry-After": {"schema": _WHOLE, "description": "seconds"}}
_HEADERS: dict[int, OpenApi] = {
    401: {"WWW-Authenticate": {"schema": {"const": "Bearer"}}},
    429: _LATER,
    503: _LATER,
}
_MEANINGS = {
    400: "The request is wrong. The text names the input, the parameter or the header.",
    401: "No token was sent, or a wrong one.",
    403: "No admin token is configured, or the weights may not be read from there.",
    404: "There is no such model, or another version answers. The text says which.",
    409: "Another change is under way, a candidate is out, or none is; or the change is based on another version.",
    410: "The sequence has ended: no replica holds the version any more with which it began.",
    413: "It is larger than it may be. The text names the limit's key in the configuration.",
    429: "Too many wrong tokens came from this address.",
    500: "A run has failed. The text says what is known.",
    503: "Not now.",
    504: "The request's own deadline has passed.",
    507: "There is no room for the weights, in memory or in the store.",
}


def operation(
    identity: str,
    tag: str,
    summary: str,
    answers: Mapping[int, OpenApi],
    *,
    errors: Iterable[int] = (),
    parameters: Iterable[OpenApi] = (),
    body: OpenApi | None = None,
    **more: Any,
) -> OpenApi:
    """An operation with these answers by status; those of `errors` are the shared ones."""
    responses = {str(status): response for status, response in answers.items()}
    responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in errors}
    made: OpenApi = {"operationId": identity, "tags": [tag], "summary": summary, **more, "responses": responses}
    if found := list(parameters):
        made["parameters"] = found
    if body is not None:
        made["requestBody"] = body
    return made


def json_answer(description: str, schema: OpenApi, **more: OpenApi) -> OpenApi:
    """An answer in JSON; `more` is what OpenAPI has beside the schema, an `example` for one."""
    return {"description": description, "content": {"application/json": {"schema": schema, **more}}}


def error_answers() -> OpenApi:
    """The answers that operations name by status."""
    return {str(status): _error_answer(status, meaning) for status, meaning in _MEANINGS.items()}


def _error_answer(status: int, meaning: str) -> OpenApi:
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return json_answer(meaning, ref("Error")) | headers


def ref(schema: str) -> OpenApi:
    """A reference to one of the document's schemas."""
    return {"$ref": f"#/components/schemas/{schema}"}


def parameter(place: str, name: str, schema: OpenApi, description: str, **more: Any) -> OpenApi:
    """A parameter of an operation; `place` is `path`, `query` or `header`."""
    required = {"required": True} if place == "path" else {}
    return {"name": name, "in": place, **required, "description": description, "schema": schema, **more}
