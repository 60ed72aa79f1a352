"""All errors, with their statuses and texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import getdoc
from string import Formatter

from aoti_serve import errors
from aoti_serve.errors import AotiServeError
from reference.markdown import table


def text() -> str:
    rows = [_row(kind, depth) for kind, depth in _kinds(AotiServeError, 0)]
    return table(("error", "HTTP", "gRPC", "when", "what it says"), rows)


def _kinds(kind: type[AotiServeError], depth: int) -> Iterator[tuple[type[AotiServeError], int]]:
    yield kind, depth
    for sub in sorted(kind.__subclasses__(), key=lambda each: each.__name__):
        if sub.__module__.startswith(errors.__name__):
            yield from _kinds(sub, depth + 1)


def _row(kind: type[AotiServeError], depth: int) -> tuple[str, ...]:
    template = kind.text.strip()
    says = "" if template == AotiServeError.text else f"`{_shown(template)}`"
    first = re.split(r"\n\s*\n|(?<=\.)\s", getdoc(kind) or "", maxsplit=1)[0]
    return f"{'· ' * depth}`{kind.__name__}`", *_statuses(kind), " ".join(first.split()), says


def _statuses(kind: type[AotiServeError]) -> tuple[str, str]:
    """Of HTTP and of gRPC; of some classes each error has those of its cause."""
    if kind.http_status is not AotiServeError.http_status:
        return "its cause's", "its cause's"
    without_facts = kind.__new__(kind)
    return str(without_facts.http_status), without_facts.grpc_status


def _shown(template: str) -> str:
    """The template, its facts in braces without how they are written."""
    parts = (before + (f"{{{fact}}}" if fact else "") for before, fact, _, _ in Formatter().parse(template))
    return "".join(parts).replace("`", "'").replace("\n", " ")
