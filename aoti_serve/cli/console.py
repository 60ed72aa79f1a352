"""The consoles that all commands print to, and the way they report errors."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from aoti_serve.errors import AotiServeError, WrongUsage

P = ParamSpec("P")
UNCUT_WIDTH = 10_000
PROGRAM = "aoti-serve"
# typer has its own copy of click since 0.16, without a public name for what both raise.
_NotUnderstood: type[Exception] = typer.BadParameter.__mro__[1]
WRONG_USAGE_STATUS = 2
_names = re.compile(r"(?<![\w./:\\-])[A-Za-z_][\w-]*+(?:\.[\w-]++){2,}+(?![/@\\])")  # of tensors; no paths, no hosts


class ProgressConsole(Console):
    """A console that becomes silent when its reader has gone. The command goes on, and ends what it has started."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


# No markup: labels, shapes and paths hold brackets. Standard error, so that --json leaves standard output to scripts.
out = Console(soft_wrap=True, markup=False, highlight=False)
progress_out = ProgressConsole(stderr=True, soft_wrap=True, markup=False, highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def program_called() -> str:
    """What calls this program from where it was called, so that what is printed can be pasted."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{_for_the_shell(Path(sys.executable))} -m aoti_serve"
    return _for_the_shell(called) if called.is_file() else PROGRAM


def as_pasted(text: str) -> str:
    """The text, in which each of our commands that stands in `` can be pasted."""
    return text.replace(f"`{PROGRAM} ", f"`{program_called()} ")


def _for_the_shell(program: Path) -> str:
    """Its name where a shell finds it by that, else the shorter one of its paths."""
    path = os.path.abspath(program)
    if which(program.name) == path:
        return program.name
    from_here = os.path.relpath(path)
    if os.sep not in from_here:
        from_here = os.path.join(os.curdir, from_here)
    return shlex.quote(min(from_here, path, key=len))


def error_facts(error: AotiServeError) -> dict[str, Any]:
    """An error as `--json` shows it."""
    return {"error": str(error), "type": type(error).__name__, "facts": error.facts}


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Report errors of `command` as `reported_errors` does; as JSON if it was called with `--json`."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with reported_errors(bool(kwargs.get("as_json")), sys.exit):
            command(*args, **kwargs)

    return run


@contextmanager
def reported_errors(as_json: bool, end: Callable[[int], object]) -> Iterator[None]:
    """Report an error of ours in one line, or as JSON on standard output, and call `end` with 1; at Ctrl-C with 130.

    Other errors keep their traceback.
    """
    try:
        yield
    except AotiServeError as error:
        if as_json:
            print_json(error_facts(error))
        else:
            progress_out.print(
                Text.assemble(("error: ", "bold red"), cut_names(as_pasted(str(error)), columns_of(progress_out)))
            )
        end(1)
    except KeyboardInterrupt:
        progress_out.print("interrupted")
        end(128 + signal.SIGINT)


class ProgramGroup(TyperGroup):
    """All commands. With `--json` among the words, wrong use is a `WrongUsage` on standard output; the status is 2."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **more: Any) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if "--json" not in words or not more.get("standalone_mode", True):
            return super().main(args, *others, **more)
        try:
            status = super().main(words, *others, **{**more, "standalone_mode": False})
        except _NotUnderstood as error:
            print_json(error_facts(_wrong_usage(error)))
            sys.exit(WRONG_USAGE_STATUS)
        except typer.Abort:
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)


def _wrong_usage(error: Any) -> WrongUsage:
    command = error.ctx.command_path if error.ctx else PROGRAM
    return WrongUsage(command=command, detail=error.format_message().removesuffix("."))


class Terminal:
    """A `ProgressLog` on standard error: a line that is replaced on a terminal, one line per change in a log.

    The line counts the seconds since the first of them: what is silent for long is not taken for dead.
    """

    def __init__(self) -> None:
        self._status = progress_out.status("")
        self._text = ""
        self._began = time.monotonic()

    def __rich__(self) -> Text:
        return Text(f"{self._text}  {time.monotonic() - self._began:.0f} s")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()

    def say(self, text: str) -> None:
        progress_out.print(text)

    def progress(self, text: str) -> None:
        if not progress_out.is_terminal and text != self._text:
            progress_out.print(text)
        self._text = text
        self._status.update(self)
        self._status.start()

    def passing(self, text: str) -> None:
        """Show what is over in a moment; to a log it is not worth a line."""
        if progress_out.is_terminal:
            self.progress(text)

    def rest(self) -> None:
        """Remove the progress line: nothing is in progress any more."""
        self._status.stop()


@contextmanager
def phases(verbose: bool = False) -> Iterator[Callable[[str], None]]:
    """What tells the phases of long work: on a terminal; elsewhere only if `verbose`, since scripts do not ask."""
    with Terminal() as log:
        yield log.progress if verbose or progress_out.is_terminal else lambda _: None


def bytes_text(count: int) -> str:
    """A size for people: 1536 gives '1.5 KB'."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def columns_of(console: Console) -> int:
    """How many columns there are for a line; as many as it needs where the output is no screen."""
    return console.width if console.is_terminal else UNCUT_WIDTH


def cut_name(name: str, width: int) -> str:
    """The name, or its first part and as many of its last ones as fit: `bert…layer.11.output.dense.weight`."""
    if len(name) <= width:
        return name
    first, *rest = name.split(".")
    for index in range(1, len(rest)):
        cut = f"{first}…{'.'.join(rest[index:])}"
        if len(cut) <= width:
            return cut
    front = (width - 1) // 3
    return f"{name[:front]}…{name[len(name) - (width - 1 - front) :]}"


def cut_apart(names: Sequence[str], width: int) -> Callable[[str], str]:
    """What cuts these names; those that would look alike stay whole."""
    alike = Counter(cut_name(name, width) for name in dict.fromkeys(names))
    return lambda name: name if alike[cut_name(name, width)] > 1 else cut_name(name, width)


def cut_names(text: str, width: int) -> str:
    """The text for a terminal of this width; the names in it that would fill most of a line are cut."""
    cut = cut_apart(_names.findall(text), width * 3 // 5)
    return _names.sub(lambda found: cut(found[0]), text)
