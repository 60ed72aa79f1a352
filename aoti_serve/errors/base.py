"""The base class of all errors, which makes their texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, dataclass_transform

# google/rpc/code.proto says so, but for 409 and 413, to which it has no single answer.
_GRPC_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    507: "RESOURCE_EXHAUSTED",
}


@dataclass_transform(kw_only_default=True, eq_default=False)
class AotiServeError(Exception):
    """Base class of all errors of this package. It survives pickling.

    A subclass declares its facts as typed fields, as a dataclass does; they are keyword arguments. In its class line it
    declares what differs from its parent: `status`, the HTTP status, `grpc`, the name of gRPC's if it is not the one
    that goes with it, and `text`, a template of the message that names the facts. The message takes `longest` bytes of
    UTF-8 at most, and each fact half of that, whatever a client sent. `{rows:rows}` is "1 row", or "2 rows".
    """

    status: ClassVar[int] = 500
    grpc: ClassVar[str | None] = None
    text: ClassVar[str] = "{detail}"
    longest: ClassVar[int] = 1024

    def __init_subclass__(cls, *, status: int | None = None, grpc: str | None = None, text: str | None = None) -> None:
        super().__init_subclass__()
        cls.status = cls.status if status is None else status
        cls.grpc = grpc or cls.grpc
        cls.text = cls.text if text is None else text
        dataclass(kw_only=True, eq=False, repr=False)(cls)

    @property
    def facts(self) -> dict[str, Any]:
        """The values of the fields, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @property
    def http_status(self) -> int:
        return self.status

    @property
    def grpc_status(self) -> str:
        """The name of a code in grpc.StatusCode."""
        return self.grpc or _GRPC_STATUS.get(self.http_status, "INTERNAL")

    def __str__(self) -> str:
        facts = {name: _Said(shortened(_shown_fact(fact), self.longest // 2)) for name, fact in self.facts.items()}
        return shortened(self.text.format_map(facts), self.longest)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Callable[..., AotiServeError], tuple[Any, ...]]:
        return partial(type(self), **self.facts), ()


def plain(text: str) -> str:
    """The text with `?` for each lone surrogate: names of files and texts of exceptions may have some, UTF-8 none."""
    return text.encode(errors="replace").decode()


def shortened(text: str, longest: int = AotiServeError.longest) -> str:
    """`text`, or its beginning and a sign that it goes on, in at most `longest` bytes of UTF-8; `plain`."""
    raw = text[: longest + 1].encode(errors="replace")
    if len(raw) <= longest:
        return raw.decode()
    return raw[: longest - len("…".encode())].decode(errors="ignore") + "…"


def quantity(number: object, units: str) -> str:
    """The number with its unit, which is given in the plural: `1 row`, `2 rows`."""
    return f"{number} {units.removesuffix('s') if str(number) == '1' else units}"


class _Said(str):
    """A fact in words."""

    __slots__ = ()

    def __format__(self, units: str) -> str:
        return quantity(self, units) if units else str(self)


def _shown_fact(fact: object) -> str:
    if isinstance(fact, float):
        short = f"{fact:g}"
        return f"{fact:.9f}".rstrip("0") if "e-0" in short else short
    if isinstance(fact, list | tuple) and all(isinstance(entry, str) for entry in fact):
        return ", ".join(fact) or "none"
    return str(fact)
