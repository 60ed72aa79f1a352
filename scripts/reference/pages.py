"""The pages of the reference, and what writes the generated part of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from reference import command_line, configuration, error_table, metrics_table, routes
from reference.markdown import linked

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


class Page(NamedTuple):
    """A page whose text between `<!-- mark -->` and `<!-- /mark -->` is made of the code."""

    name: str
    mark: str
    made: Callable[[], str]

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.md"


PAGES = (
    Page("command-line", "commands", command_line.text),
    Page("configuration", "configuration", configuration.text),
    Page("errors", "errors", error_table.text),
    Page("http", "routes", routes.text),
    Page("metrics", "metrics", metrics_table.text),
)


def written(page: Page) -> str:
    """The whole page as it should be."""
    start, end = f"<!-- {page.mark} -->\n", f"<!-- /{page.mark} -->"
    between = re.compile(f"(?<={re.escape(start)}).*(?={re.escape(end)})", re.S)
    made = linked(page.made().strip() + "\n")
    return between.sub(lambda _: made, page.path.read_text())
