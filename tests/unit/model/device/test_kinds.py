"""A kind of device is named in one place, and its library is called in one module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aoti_serve
from tests.unit.source import parsed

ROOT = Path(aoti_serve.__file__).parent
NAMED_IN = "signature/tensors.py"
CALLED_IN = "model/device/cuda.py"


def prose(tree: ast.AST) -> set[ast.AST]:
    """The docstrings."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def named(source: str) -> Iterator[str]:
    """The strings in code that hold the word."""
    tree = parsed(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose(tree):
            yield from [node.value] if "cuda" in node.value else []


def called(source: str) -> Iterator[str]:
    """`torch.cuda` and `torch.version.cuda`."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Attribute) and node.attr == "cuda":
            yield ast.unparse(node)


def test_the_word_stands_in_one_place() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if [*named(path.read_text())]}
    assert found == {NAMED_IN}


def test_its_library_is_called_in_one_module() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if [*called(path.read_text())]}
    assert found == {CALLED_IN}


@pytest.mark.parametrize(
    "source", ['x = "cuda"', 'x = f"cuda:{1}"', 'x: Literal["auto", "cuda"]', 'def f():\n    return {"cuda": 1}']
)
def test_the_check_sees_the_word(source: str) -> None:
    assert [*named(source)]


def test_the_check_passes_over_prose() -> None:
    assert not [*named('"""For cuda."""\ndef f():\n    """And "cuda:1"."""')]
