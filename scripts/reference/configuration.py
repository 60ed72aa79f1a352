"""Every key of the configuration, with its type, default and limits, and what its docstring says."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from typing import Any

from pydantic import AliasChoices

from aoti_serve.config import AppConfig
from aoti_serve.signature.tensors import Frozen
from reference.markdown import table

MEBIBYTE = 2**20
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
}
KINDS = {"integer": "whole number", "boolean": "true, false", "array": "list", "object": "mapping", "string": "text"}


def text() -> str:
    """A section for each class of the configuration, the outermost first."""
    return "\n\n".join(_section(kind) for kind in sections(AppConfig))


def sections(kind: type[Frozen]) -> Iterator[type[Frozen]]:
    """The class and all that its keys hold, in their order, each once."""
    waiting, seen = [kind], set[type[Frozen]]()
    while waiting:
        now = waiting.pop(0)
        if now not in seen:
            seen.add(now)
            yield now
            waiting += [sub for field in now.model_fields.values() for sub in _models(field.annotation)]


def described(kind: type[Frozen]) -> dict[str, str]:
    """What stands under each key in its class, the parents' keys included."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if issubclass(owner, Frozen) and owner is not Frozen:
            found |= _docstrings(owner)
    return found


def _docstrings(owner: type) -> dict[str, str]:
    (node,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(node, ast.ClassDef)
    return {
        field.target.id: " ".join(said.value.value.split())
        for field, said in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(said)
        if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) and isinstance(said.value.value, str)
    }


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _models(annotation: Any) -> Iterator[type[Frozen]]:
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models(part)


def _section(kind: type[Frozen]) -> str:
    schema, said = kind.model_json_schema(by_alias=False), described(kind)
    rows = [_row(name, _key(kind, name), schema, said.get(name, "")) for name in schema["properties"]]
    about = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return f"## {kind.__name__}\n\n{about}\n\n" + table(("key", "type", "default", "meaning"), rows)


def _key(kind: type[Frozen], name: str) -> str:
    """As it is written in a file."""
    alias = kind.model_fields[name].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else name


def _row(name: str, key: str, schema: dict[str, Any], meaning: str) -> tuple[str, ...]:
    entry = schema["properties"][name]
    default = "required" if name in schema.get("required", ()) else _default(entry.get("default"))
    return f"`{key}`", _kind(entry, schema.get("$defs", {})), default, meaning


def _default(value: object) -> str:
    if isinstance(value, int) and value >= MEBIBYTE and value % MEBIBYTE == 0:
        return f"`{value}` ({value // MEBIBYTE:,} MiB)"
    return "its own" if isinstance(value, dict) and value else f"`{json.dumps(value)}`"


def _kind(entry: dict[str, Any], defs: dict[str, Any]) -> str:
    if "$ref" in entry:
        name = entry["$ref"].rpartition("/")[2]
        inner = defs[name]
        return f"[{name}](#{name.lower()})" if inner.get("type") == "object" else _kind(inner, defs)
    if choices := entry.get("anyOf") or entry.get("oneOf"):
        return ", or ".join(dict.fromkeys(_kind(choice, defs) for choice in choices))
    if "enum" in entry or "const" in entry:
        return ", ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    limits = [words.format(f"{entry[bound]:,}") for bound, words in BOUNDS.items() if bound in entry]
    kind = str(entry.get("type", "any"))
    of = f" of {_kind(entry['items'], defs)}" if kind == "array" and "items" in entry else ""
    return ", ".join([KINDS.get(kind, kind) + of, *limits])
