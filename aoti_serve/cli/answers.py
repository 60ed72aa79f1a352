"""The server's answers as values, and the texts that several views make of them. Nothing in them obeys a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

from aoti_serve import __version__
from aoti_serve.cli.console import UNCUT_WIDTH, cut_apart
from aoti_serve.errors import ServerRefused, problems, quantity
from aoti_serve.token import token_place
from aoti_serve.weights.version import Rounding, Version

GAP = 2  # between the columns of a narrow table
LEAST_NAME, LEAST_LAST = 24, 13  # columns
T = TypeVar("T")


class Uncut:
    """Renders at full width where the output is no screen: in a file, in a pipe."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options if console.is_terminal else options.update(max_width=UNCUT_WIDTH)
        yield from console.render(self._renderable, wide)


def answer_json(response: httpx.Response) -> Any:
    """The JSON of a successful response. Raises ServerRefused with the server's own text for any other response."""
    if response.is_success:
        return _json_of(response)
    detail, kind = _said(response)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        detail += f"; the one that was sent stands in {token_place()}: put an admin token of this server there"
    raise ServerRefused(code=response.status_code, detail=safe(detail), kind=kind)


def _said(response: httpx.Response) -> tuple[str, str | None]:
    """The text of an error, and its class, if an aoti-serve server has sent it."""
    try:
        body = response.json()
        return str(body["error"]), safe(str(body["type"])) if "type" in body else None
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {_plain_text(response)}", None


def _json_of(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise ValueError(f"it answers {_plain_text(response)}") from None


def _plain_text(response: httpx.Response) -> str:
    """The text of a response that another server or a proxy has sent. A web page is named, not quoted."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    page = kind == "text/html" or response.text.lstrip().lower().startswith(("<!doctype", "<html"))
    return "with a web page: is this an aoti-serve server?" if page else response.text[:500]


def value_of(kind: type[T], answer: Any) -> T:
    """The answer as a value of this type, its texts made safe to print.

    Raises ServerRefused for an answer that this version does not understand.
    """
    try:
        return TypeAdapter(kind).validate_python(_safe(answer))
    except ValidationError as error:
        wrong = safe(problems(error.errors()))
        detail = f"the server answers otherwise than aoti-serve {__version__} does ({wrong}); --json shows it as it is"
        raise ServerRefused(code=200, detail=detail) from error


def safe(text: str) -> str:
    """The text in one line, without characters that would control a terminal."""
    return "".join(map(_shown, text)).strip()


def title(version: Version) -> str:
    """A version for people: 3 (step 300)."""
    named = ", ".join(filter(None, (version.label, adapter_text(version), skipped_text(version))))
    return f"{version.number} ({named})" if named else str(version.number)


def adapter_text(version: Version) -> str:
    """What an adapter was merged into; empty if none was."""
    return f"adapter on {version.adapter.base}" if version.adapter else ""


def golden_text(version: Version) -> str:
    """How many golden requests came with it; empty if none did."""
    return quantity(version.golden.requests, "golden requests") if version.golden else ""


def assets_text(version: Version) -> str:
    """The names of the files that the processor reads with it; empty if it has none."""
    return safe(", ".join(asset.name for asset in version.assets.files)) if version.assets else ""


def skipped_text(version: Version) -> str:
    """Also where there is room for little: such weights may hold anything."""
    return "acceptance skipped" if version.skips_acceptance else ""


def reading_lines(version: Version) -> list[Text]:
    """A line of what was done to its checkpoint's names and dtypes; none if nothing was."""
    names, rounding = version.names, version.rounding
    rules = [f"rename {rule}" for rule in names.rename] + [f"drop {rule}" for rule in names.drop] if names else []
    done = [*rules, *([rounding_text(rounding)] if rounding else [])]
    return [line(", ".join(done))] if done else []


def rounding_text(rounding: Rounding) -> str:
    """By how much a cast has changed values at most."""
    cast = f"{quantity(rounding.tensors, 'tensors')} cast"
    if not rounding.error:
        return f"{cast}, without rounding"
    return f"{cast}, a value of {rounding.value:.3g} in {rounding.tensor} rounded by {rounding.error:.3g}, none by more"


def age_text(seconds: float) -> str:
    """An age for people: 7300 gives '2 h'."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"  # the server's clock may be ahead


def line(*parts: str | tuple[str, str]) -> Text:
    """A line that wraps where it is too long; a live screen would cut it."""
    return Text.assemble(*parts, no_wrap=False, overflow="fold")


def narrow_table(*columns: str | Column) -> Table:
    """A table that is narrow enough for ten columns on a screen. Long cells are folded, not cut."""
    table = Table(*columns, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.overflow = "fold"
    return table


def name_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], named: int, width: int) -> Table:
    """A table that fits into `width`. Column `named` holds names, which are cut; the cells of the last are folded."""
    widest = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    rest = width - GAP * (len(columns) - 1) - sum(widest[:-1])
    last = min(widest[-1], max(LEAST_LAST, rest))
    cut = cut_apart([row[named] for row in rows], max(LEAST_NAME, widest[named] + rest - last))
    table = narrow_table(*columns)
    table.title, table.title_justify = title, "left"
    table.columns[-1].max_width = last
    for row in rows:
        table.add_row(*(cut(cell) if place == named else cell for place, cell in enumerate(row)))
    return table


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
