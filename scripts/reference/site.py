"""The hook of mkdocs: the README is the first page, and what lies outside docs is named instead of linked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reference.markdown import named_outside

README = Path(__file__).parents[2] / "README.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page, with its text."""
    if page.file.src_uri == "index.md":
        return named_outside(README.read_text().replace("](docs/", "]("), "")
    return named_outside(markdown, page.file.src_uri.rpartition("/")[0])
