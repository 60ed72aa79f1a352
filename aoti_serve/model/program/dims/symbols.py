"""Sizes in an exported program: the symbols in them, and what these are called."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram


class Linear(NamedTuple):
    """A size: `factor` times the value of a symbol, plus `offset`."""

    symbol: str
    factor: int
    offset: int


def size_of(size: Any) -> int | Linear | None:
    """A tensor's size as a number, also where torch has found it late, or of a symbol; None for anything else."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    symbols = list(expression.free_symbols)
    if not symbols:
        return int(expression)
    factor: Any = expression.coeff(symbols[0]) if len(symbols) == 1 else 0
    offset: Any = expression - factor * symbols[0] if factor else 0
    if not (factor and factor.is_Integer and factor > 0 and offset.is_Integer):
        return None
    return Linear(str(symbols[0]), int(factor), int(offset))


def range_of(program: ExportedProgram, symbol: str) -> tuple[int, int | None]:
    """The least and the largest value of a symbol; None for no largest."""
    bounds = next((found for name, found in program.range_constraints.items() if str(name) == symbol), None)
    if bounds is None:
        return 0, None
    return _whole(bounds.lower) or 0, _whole(bounds.upper)


def lowest_assumed(program: ExportedProgram, symbol: str, example: int) -> int:
    """The least value of a symbol, at least 2 and at most its example's, for which torch has traced the program.

    What it assumes of a size that is computed ("not 1" of an image after a convolution) is not in the symbol's range.
    Equations are left out: for these torch suggests another Dim.
    """
    guards = [guard.expr for guard in _shape_env(program).guards]
    assumed = [expr for expr in guards if [str(each) for each in expr.free_symbols] == [symbol] and expr.rel_op != "=="]
    return 2 + bisect(range(2, example), 0, key=lambda value: all(_holds(expr, value) for expr in assumed))


def _holds(expression: Any, value: int) -> bool:
    try:
        return bool(expression.subs(next(iter(expression.free_symbols)), value))
    except (TypeError, ZeroDivisionError):
        return False


def dim_names(program: ExportedProgram) -> dict[str, str]:
    """The names of the exported Dims, by symbol. torch keeps them beside the places that the symbols come from."""
    env = _shape_env(program)
    if env is None:
        return {}
    given: dict[str, str] = {}
    for symbol, sources in env.var_to_sources.items():
        names = [env.source_name_to_debug_name.get(source.name, source.name) for source in sources]
        given |= {str(_kept(env, symbol)): name for name in names if name.isidentifier()}
    # `height = 2*_height` is torch's own suggestion.
    plain = {symbol: name.lstrip("_") or name for symbol, name in given.items()}
    counts = Counter(plain.values())
    return {symbol: name if counts[name] == 1 else given[symbol] for symbol, name in plain.items()}


def _shape_env(program: ExportedProgram) -> Any:
    values = (node.meta.get("val") for node in program.graph.nodes)
    sizes: Iterator[Any] = (size for value in values if isinstance(value, torch.Tensor) for size in value.shape)
    return next((size.node.shape_env for size in sizes if not isinstance(size, int)), None)


def _kept(env: Any, symbol: Any) -> Any:
    """The symbol that stands for this one, where torch has found the two to be equal."""
    while getattr(env.replacements.get(symbol), "is_Symbol", False):
        symbol = env.replacements[symbol]
    return symbol


def _whole(bound: Any) -> int | None:
    """A range's end as an int; None for infinity and for the compiler's stand-in for it."""
    number = int(bound) if isinstance(bound, int) or getattr(bound, "is_Integer", False) else None
    return number if number is None or number < 2**62 else None
