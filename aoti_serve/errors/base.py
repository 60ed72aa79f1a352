"""What all errors here have in common."""

from __future__ import annotations

from typing import Any, ClassVar


class AotiServeError(Exception):
    """Base of all errors here. `status` is the HTTP status it becomes, `text` its words, `facts` what they need.

    The words take `longest` bytes of UTF-8 at most, each fact half of that, whatever somebody sent.
    """

    status: ClassVar[int] = 500
    text: ClassVar[str] = "{detail}"
    longest: ClassVar[int] = 1024

    def __init_subclass__(cls, *, status: int | None = None, text: str | None = None) -> None:
        """A subclass declares what differs from its parent, in its class line."""
        super().__init_subclass__()
        cls.status = cls.status if status is None else status
        cls.text = cls.text if text is None else text

    def __init__(self, **facts: Any) -> None:
        super().__init__(facts)
        self.facts = facts

    def __str__(self) -> str:
        facts = {name: shortened(str(fact), self.longest // 2) for name, fact in self.facts.items()}
        return shortened(self.text.format_map(facts), self.longest)

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.facts)

    @property
    def http_status(self) -> int:
        return self.status


def shortened(text: str, longest: int = AotiServeError.longest) -> str:
    """`text`, or its beginning and a sign that it goes on, in at most `longest` bytes of UTF-8."""
    raw = text[: longest + 1].encode(errors="replace")
    if len(raw) <= longest:
        return text
    return raw[: longest - len("…".encode())].decode(errors="ignore") + "…"


def _revive(kind: type[AotiServeError], facts: dict[str, Any]) -> AotiServeError:
    return kind(**facts)
