"""Python source as a syntax tree."""

from __future__ import annotations

import ast
import gc


def parsed(source: str) -> ast.Module:
    """The tree of `source`.

    Collects no garbage meanwhile: what a collection runs may print a traceback, which parses too,
    and CPython 3.11 counts the depth of both in one place (python/cpython#106905).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()
