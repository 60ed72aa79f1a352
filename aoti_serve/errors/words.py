"""What is wrong with a value that somebody wrote, in words. pydantic finds it, and nobody reads pydantic's own.

Every text of a ValidationError that a user can see is made here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, get_args

LONGEST_SHOWN: Final = 40  # characters
MOST_KEYS_LISTED: Final = 12  # keys
_WHOLE, _NUMBER, _TEXT = "{value} is no whole number", "{value} is no number", "{value} is no text"
_LIST, _MAPPING = "{value} is no list{listed}", "{value} is no mapping of keys to values"
# By pydantic's names of what it finds; all others keep the text that the check itself has written.
_WORDS: Final[Mapping[str, str]] = {
    "missing": "it is missing",
    "json_invalid": "it is not JSON: {error}",
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), _WHOLE),
    **dict.fromkeys(("float_type", "float_parsing"), _NUMBER),
    "finite_number": "{value} is no finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "{value} is neither true nor false"),
    **dict.fromkeys(("string_type", "string_sub_type", "string_unicode"), _TEXT),
    "path_type": "{value} is no path",
    **dict.fromkeys(("tuple_type", "list_type", "set_type", "frozen_set_type"), _LIST),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), _MAPPING),
    **dict.fromkeys(("literal_error", "enum"), "{value} is not {expected}"),
    "greater_than": "{value} is too small: more than {gt} is needed",
    "greater_than_equal": "{value} is too small: {ge} or more is needed",
    "less_than": "{value} is too large: less than {lt} is needed",
    "less_than_equal": "{value} is too large: {le} or less is needed",
    "too_short": "it is too short: {min_length} or more entries are needed",
    "too_long": "it is too long: {max_length} entries are the most",
    "string_too_short": "{value} is too short: {min_length} or more characters are needed",
    "string_too_long": "it is too long: {max_length} characters are the most",
    "string_pattern_mismatch": "{value} does not match the pattern {pattern}",
}
# What pydantic adds to the place of a value that may have one of several types; ours are written <so>.
_type_in_place = re.compile(r"<.*>|(function|literal|tagged-union|tuple|dict|nullable|lax-or-strict)\b.*\[.*\]|\S+-\S+")


def problems(found: Sequence[Any], model: type | None = None) -> str:
    """pydantic's `errors()` in words, by field. Of a `model` its keys are told to who has missed one."""
    return "; ".join(each_problem(found, model))


def each_problem(found: Sequence[Any], model: type | None = None) -> list[str]:
    """As `problems`, one by one."""
    # A list whose entries are wrong is reported as too short as well.
    real = [entry for entry in found if entry["type"] != "too_short"] or list(found)
    return list(dict.fromkeys(_problem(entry, model) for entry in _united(real)))


def no_such_key(key: str, known: Collection[str] = ()) -> str:
    """That nothing is called so, and what may be meant."""
    near = get_close_matches(key, known, 1)
    listed = f"; available: {', '.join(known)}" if 0 < len(known) <= MOST_KEYS_LISTED else ""
    return "there is no such key" + (f"; there is `{near[0]}`" if near else listed)


def yaml_words(error: Exception, source: object) -> str:
    """What yaml has found, in the file that was read: it only knows the text."""
    return str(error).replace('"<unicode string>"', str(source))


def shown_value(value: Any) -> str:
    """A value in few characters, as JSON writes it, but text as 'text'. Lists and objects by their kind: they may be
    nested a thousand deep.

    Of integers beyond 64 bits orjson makes floats, whose digits nobody has sent.
    """
    match value:
        case str() | bytes():
            return repr(value[:LONGEST_SHOWN])
        case Mapping():
            return "an object"
        case list() | tuple() | set() | frozenset():
            return "a list"
        case bool() | None | float() if value is None or not math.isfinite(value) or isinstance(value, bool):
            return json.dumps(value)
        case float() if value >= 2**64 or value <= -(2**63):
            return "a number too large for 64 bits"
        case _:
            return repr(value)[:LONGEST_SHOWN]


def _problem(entry: Any, model: type | None) -> str:
    *way, last = [part for part in entry["loc"] if not _names_a_type(part)] or [""]
    unknown = entry["type"] == "extra_forbidden"
    words = no_such_key(str(last), _keys_at(way, model)) if unknown else _words(entry)
    return f"{'.'.join(map(str, (*way, last)))}: {words}".removeprefix(": ")


def _keys_at(way: Sequence[object], model: type | None) -> list[str]:
    """The keys that are taken at the end of a way through a model, its lists and its mappings."""
    kinds = list(_models_in(model))
    for part in way:
        kinds = [each for kind in kinds if part in kind.model_fields for each in _inner(kind, part)] or kinds
    return [name for kind in kinds for name in kind.model_fields]


def _inner(kind: Any, part: object) -> Iterator[Any]:
    return _models_in(kind.model_fields[part].annotation)


def _models_in(annotation: Any) -> Iterator[Any]:
    """The classes of pydantic's that a type is made of."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _names_a_type(part: object) -> bool:
    return isinstance(part, str) and _type_in_place.fullmatch(part) is not None


def _words(entry: Any) -> str:
    words = _WORDS.get(entry["type"])
    if words is None:
        return str(entry["msg"]).removeprefix("Value error, ")
    value = entry.get("input")
    listed = f": write [{value}]" if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    facts = {"value": shown_value(value), "listed": listed[: 2 * LONGEST_SHOWN]}
    return words.format_map({**(entry.get("ctx") or {}), **facts})


def _united(found: Sequence[Any]) -> Iterator[Any]:
    """One problem for the literals of one value; pydantic has one for each type that it could have had."""
    literals: dict[Any, list[Any]] = {}
    for entry in found:
        if entry["type"] == "literal_error":
            literals.setdefault(entry["loc"][:-1] if _names_a_type(entry["loc"][-1]) else entry["loc"], []).append(
                entry
            )
    for entry in found:
        if entry["type"] != "literal_error":
            yield entry
    for entries in literals.values():
        expected = ", ".join(entry["ctx"]["expected"].replace(" or ", ", ") for entry in entries)
        yield {**entries[0], "ctx": {"expected": " or ".join(expected.rsplit(", ", 1))}}
