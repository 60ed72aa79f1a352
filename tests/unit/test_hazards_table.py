"""docs/internals/hazards.md: each row names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.unit.source import parsed

TESTS = Path(__file__).parent.parent
TABLE = TESTS.parent / "docs" / "internals" / "hazards.md"
_NAMED = re.compile(r"`((?:unit|integration)/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[str]:
    return [
        line
        for line in TABLE.read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| The bare runtime |")
    ]


def written_in(module: str) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = parsed((TESTS / module).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def test_each_row_names_a_test() -> None:
    assert len(rows()) > 30
    assert [row for row in rows() if not _NAMED.search(row)] == []


def test_each_test_that_is_named_exists() -> None:
    named = set(_NAMED.findall(TABLE.read_text()))
    assert {f"{module}::{test}" for module, test in named if test not in written_in(module)} == set()


def test_each_hazard_test_is_in_the_table() -> None:
    modules = [f"integration/hazards/{path.name}" for path in (TESTS / "integration" / "hazards").glob("test_*.py")]
    present = {(module, test) for module in modules for test in written_in(module) if test.startswith("test_")}
    assert present - set(_NAMED.findall(TABLE.read_text())) == set()
