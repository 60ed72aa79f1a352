"""The server's responses as values. Their texts come from others, so each is made safe to print."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from aoti_serve import __version__
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.config import problems
from aoti_serve.errors import ServerRefused
from aoti_serve.weights.swap.story import StoryEvent
from aoti_serve.weights.version import Version

T = TypeVar("T")
STATUS = TypeAdapter(WeightsStatus)
VERSIONS = TypeAdapter(list[Version])
STORY = TypeAdapter(list[StoryEvent])


def safe(text: str) -> str:
    """The text in one line, without characters that would control a terminal."""
    return "".join(map(_shown, text)).strip()


def status_of(answer: Any) -> WeightsStatus:
    """The status in a response. Raises ServerRefused for a response that this version does not understand."""
    return _read(STATUS, answer)


def versions_of(answer: Any) -> list[Version]:
    """The versions in a response. Raises ServerRefused for a response that this version does not understand."""
    return _read(VERSIONS, answer)


def story_of(answer: Any) -> list[StoryEvent]:
    """Raises ServerRefused for an answer that this version does not understand."""
    return _read(STORY, answer)


def _read(kind: TypeAdapter[T], answer: Any) -> T:
    try:
        return kind.validate_python(_safe(answer))
    except ValidationError as error:
        wrong = safe(problems(error.errors()))
        detail = f"the server answers otherwise than aoti-serve {__version__} does ({wrong}); --json shows it as it is"
        raise ServerRefused(code=200, detail=detail) from error


def _safe(answer: Any) -> Any:
    if isinstance(answer, str):
        return safe(answer)
    if isinstance(answer, list):
        return [_safe(entry) for entry in answer]
    if isinstance(answer, dict):
        return {safe(str(key)): _safe(value) for key, value in answer.items()}
    return answer


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape", "backslashreplace").decode()
