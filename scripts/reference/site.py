"""The hook of mkdocs: the README is the first page, and what lies outside docs is named instead of linked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from reference.markdown import named_outside

README = Path(__file__).parents[2] / "README.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page, with its text."""
    path = page.file.src_uri
    return named_outside(_first_page() if path == "index.md" else markdown, path.rpartition("/")[0])


def _first_page() -> str:
    """The README, with links as from docs."""
    return re.sub(r"\]\((?!\w+:)", "](../", README.read_text()).replace("](../docs/", "](")
