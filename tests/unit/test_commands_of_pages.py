"""No command of tutorial, guides and concepts goes unseen by the tests that run them."""

from __future__ import annotations

import re

import pytest

from tests.e2e import test_pages
from tests.e2e.reader import goes_on
from tests.pages import ROOT, blocks_of, prose_of

ROOMS = ("tutorial", "guides", "concepts")
PAGES = sorted(path.relative_to(ROOT).as_posix() for room in ROOMS for path in ROOT.glob(f"docs/{room}/*.md"))
PROGRAMS = r"aoti-serve|serve|ray|curl|python3?|pip|pytest|git|kubectl|helm|docker|scripts/\w+|\.venv/bin/\S+"
COMMAND = re.compile(rf"(\$ |(\w+=\S+ )*({PROGRAMS})( |$))")
INDENTED = "    "


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_of_sh(page: str) -> None:
    """In no block of another language, and in none that is indented."""
    others = [block for block in blocks_of(page) if block.language != "sh"]
    assert {block.language for block in others} <= {"python", "yaml", "json", "text"}
    shown = [line for block in others if block.language == "text" for line in block.text.splitlines()]
    shown += [line for line in prose_of(page).splitlines() if line.startswith(INDENTED)]
    assert [line for line in shown if COMMAND.match(line.strip())] == []


def test_every_page_with_commands_is_done_by_a_reader() -> None:
    done = [*test_pages.WITH_THE_DEMO, *test_pages.BY_THEMSELVES]
    assert sorted(done) == [page for page in PAGES if any(block.is_pasted for block in blocks_of(page))]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_command_prints_is_shown_and_so_compared(page: str) -> None:
    """But for what goes on, and waits for others."""
    pasted = [block for block in blocks_of(page) if block.is_pasted]
    assert [block.text for block in pasted if not (block.printed or goes_on(block.text))] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_mark_says_why_not_or_names_a_test_that_reads_the_page(page: str) -> None:
    for block in blocks_of(page):
        if block.mark:
            said = re.fullmatch(r"not run: .+|run by (?P<test>tests/\S+)", block.mark)
            assert said, block.mark
            reads = "commands_of(" if block.language == "sh" else f'blocks_of("{page}")'
            assert not said["test"] or reads in (ROOT / said["test"]).read_text(), block.mark


@pytest.mark.parametrize("page", PAGES)
def test_python_is_a_file_that_commands_use_or_has_a_test(page: str) -> None:
    for block in blocks_of(page):
        if block.language == "python" and not block.mark:
            module = block.title.removesuffix(".py")
            uses = rf"\bpython {module}\.py\b|\b{module}:"
            assert module, block.text
            assert any(re.search(uses, other.text) for other in blocks_of(page) if other is not block), block.title
