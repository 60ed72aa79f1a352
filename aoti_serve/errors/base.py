"""What all errors here have in common."""

from __future__ import annotations

from typing import Any, ClassVar


class AotiServeError(Exception):
    """Base of all errors here. `status` is the HTTP status it becomes, `text` its words, `facts` what they need."""

    status: ClassVar[int] = 500
    text: ClassVar[str] = "{detail}"

    def __init_subclass__(cls, *, status: int | None = None, text: str | None = None) -> None:
        """A subclass declares what differs from its parent, in its class line."""
        super().__init_subclass__()
        cls.status = cls.status if status is None else status
        cls.text = cls.text if text is None else text

    def __init__(self, **facts: Any) -> None:
        super().__init__(facts)
        self.facts = facts

    def __str__(self) -> str:
        return self.text.format_map(self.facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.facts)

    @property
    def http_status(self) -> int:
        return self.status


def _revive(kind: type[AotiServeError], facts: dict[str, Any]) -> AotiServeError:
    return kind(**facts)
