"""What Serve says of deployments, in one line each, and what of that is news."""

from __future__ import annotations

import re
from collections.abc import Mapping

OURS = re.compile(r"aoti_serve\.errors\.(?:\w+\.)*(\w+)\)?: (.+)")  # in a traceback

Messages = Mapping[tuple[str, str], str]  # by application and deployment


def news_among(told: Messages, now: Messages) -> list[str]:
    """A line for each deployment of which Serve says now something else than what was told."""
    return [f"{key[1]}: {text}" for key, text in now.items() if told.get(key) != text]


def said(text: str) -> str:
    """Our own error's text, or else the last line of a traceback, or else all that Serve says."""
    if ours := OURS.findall(text):
        return str(ours[-1][1])
    return last_line(text) if "Traceback" in text else " ".join(text.split())


def last_line(text: str) -> str:
    """The last line of a traceback, which says what went wrong."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
