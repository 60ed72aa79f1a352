"""What a page of the docs has in blocks: files to write, commands to paste, and what those print.

A block with a title is a file of that name. A block of `sh` is pasted, and the block of `text` or `json` that follows
is what it prints: each line of it is part of a line, in this order, and `...` stands for what differs each time. A
comment before a block of `sh` says `not run: why`, or which test of its own it has: `run by tests/e2e/test_wheel.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>.+) -->\n)?(?P<fence> *(?:```+|~~~+))(?P<info>.*)\n(?P<text>(?s:.*?))^(?P=fence)$",
    re.MULTILINE,
)
_SHOWN = re.compile(r"\n\n```(?:text|json)\n((?s:.*?))^```$", re.MULTILINE)


class Block(NamedTuple):
    """`printed` is what the page shows below it, `mark` what the comment above it says; empty if there is none."""

    language: str
    title: str
    text: str
    printed: str
    mark: str

    @property
    def is_pasted(self) -> bool:
        return self.language == "sh" and not self.mark


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, such as `docs/guides/int8.md`, in its order."""
    text = (ROOT / page).read_text()
    return [_block(found, text) for found in _BLOCK.finditer(text)]


def prose_of(page: str) -> str:
    """What is in no block."""
    return _BLOCK.sub("", (ROOT / page).read_text())


def commands_of(page: str) -> list[str]:
    """Its blocks of `sh`, with a mark or without."""
    return [block.text.strip() for block in blocks_of(page) if block.language == "sh"]


def _block(found: re.Match[str], page: str) -> Block:
    language, _, more = found["info"].partition(" ")
    title = re.search(r'title="([^"]+)"', more)
    shown = _SHOWN.match(page, found.end())
    return Block(language, title[1] if title else "", found["text"], shown[1] if shown else "", found["mark"] or "")
