"""The pattern by which the names in weights differ from a package's, and the rules that make them fit."""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

MOST_PARTS = 6  # of a prefix
MOST_LISTED = 3


class NamePattern(NamedTuple):
    """What the weights' names have in common, in words, "" if nothing; and the options of a swap under which they fit,
    "" if none do.
    """

    seen: str
    options: str


def name_pattern(found: Collection[str], known: Collection[str]) -> NamePattern:
    """How names in weights, some of which are not `known`, differ from those that are: by a prefix that they lack, or
    have too much, and by what the package has nothing for.
    """
    ours, theirs = set(known), set(found)
    unknown = [name for name in found if name not in ours]
    cut, added = _prefixes(unknown, ours - theirs)
    new = {name: added + name.removeprefix(cut) if name.startswith(cut) else name for name in unknown}
    free = ours - theirs
    fitting = {name for name in unknown if new[name] in free}
    left = [name for name in unknown if name not in fitting]
    drops = _drops([new[name] if fitting else name for name in left], ours)
    if drops is None:
        options: list[str] = []
    else:
        options = ["--rename", f"{re.escape(cut)}={added}"] if fitting else []
        options += [word for drop in drops for word in ("--drop", drop)]
    return NamePattern(_seen(len(theirs), fitting, cut, added, left), shlex.join(options))


def _seen(total: int, fitting: Collection[str], cut: str, added: str, left: Collection[str]) -> str:
    if not fitting:
        return ""
    words = f"all {total} names" if len(fitting) == total else f"{len(fitting)} of the {total} names"
    if cut and added:
        words += f" have the prefix '{cut}' where the package has '{added}'"
    else:
        words += f" lack the prefix '{added}'" if added else f" have the prefix '{cut}', which the package has not"
    if left:
        more = f" and {len(left) - MOST_LISTED} more" if len(left) > MOST_LISTED else ""
        listed = ", ".join(f"'{name}'" for name in list(left)[:MOST_LISTED])
        words += f", and it has nothing for {listed}{more}"
    return words


def _prefixes(unknown: Collection[str], wanted: Collection[str]) -> tuple[str, str]:
    """The prefix to cut and the one to add for which most names ask; none where two pairs are as good."""
    begins: dict[str, list[str]] = defaultdict(list)
    for name in wanted:
        for prefix, end in _splits(name):
            begins[end].append(prefix)
    votes: Counter[tuple[str, str]] = Counter()
    for name in unknown:
        votes.update(_votes(name, begins))
    (best, count), (_, second) = (*votes.most_common(2), (("", ""), 0), (("", ""), 0))[:2]
    return best if count > second else ("", "")


def _votes(name: str, begins: dict[str, list[str]]) -> list[tuple[str, str]]:
    """What to cut and to add to make it the name with the longest common end; nothing if that end says too little."""
    for prefix, end in _splits(name):
        if end in begins:
            return [(prefix, other) for other in begins[end][: MOST_LISTED + 1]]
    return []


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """A name as a prefix and the rest, at its first dots, the shortest prefix first."""
    yield "", name
    at = 0
    for _ in range(MOST_PARTS):
        at = name.find(".", at) + 1
        if not 0 < at < len(name):
            return
        yield name[:at], name[at:]


def _drops(left: Collection[str], known: Collection[str]) -> list[str] | None:
    """Patterns that drop these names and none that are known; None if that takes too many."""
    taken = {prefix for name in known for prefix, _ in _splits(name)}
    drops = {_drop(name, taken) for name in left}
    return sorted(drops) if len(drops) <= MOST_LISTED else None


def _drop(name: str, taken: Collection[str]) -> str:
    """The name, or all that begin as it does where no known name does."""
    free = next((prefix for prefix, _ in _splits(name) if prefix and prefix not in taken), None)
    return re.escape(name) if free is None else re.escape(free) + ".*"
