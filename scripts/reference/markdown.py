"""Markdown that is made of the code."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in markdown; a bar in a cell is written as a bar."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def linked(text: str) -> str:
    """With a link for each page that is named as `docs/ROOM/NAME.md`, as docs/reference leads there."""
    return re.sub(r"\bdocs/([\w-]+)/([\w-]+)\.md", lambda page: f"[{_title(page[2])}](../{page[1]}/{page[2]}.md)", text)


def _title(name: str) -> str:
    return name.replace("-", " ").capitalize()


def named_outside(text: str, room: str) -> str:
    """A page in this folder of docs, with names of files in the place of links that lead out of docs."""
    return re.sub(r"(?<!!)\[([^]]*)\]\(([^)#:]+)\)", lambda link: _named(link[0], link[1], link[2], room), text)


def _named(link: str, text: str, target: str, room: str) -> str:
    path = posixpath.normpath(posixpath.join("docs", room, target))
    if path.startswith("docs/"):
        return link
    return f"`{text}`" if path.endswith(text) else f"{text} (`{path}`)"
