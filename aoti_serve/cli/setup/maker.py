"""The user's own function that makes the model which is packaged."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aoti_serve.cli.console import progress_out
from aoti_serve.errors import InvalidConfig


def model_made_by(target: str, verbose: bool) -> tuple[Any, Any, Any]:
    """The module, its example inputs and its dynamic shapes, from MODULE:CALLABLE.

    Raises InvalidConfig; of what the user's own code raises, it prints where.
    """
    name, separator, attribute = target.partition(":")
    if not separator:
        raise InvalidConfig(detail=f"'{target}' is not of the form my_module:make_model")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = _callable(name, attribute)()
    except InvalidConfig:
        raise
    except Exception as error:  # whatever the user's own code raises
        progress_out.print("".join(_told(error, verbose)), end="")
        more = "" if verbose else "; -v shows where in the libraries that it calls"
        raise InvalidConfig(detail=f"'{target}' raised {type(error).__name__}: {error}{more}") from error
    if not isinstance(made, tuple) or len(made) != 3:
        detail = f"'{target}' must return (module, example_inputs, dynamic_shapes), not {type(made).__name__}"
        raise InvalidConfig(detail=detail)
    if not isinstance(made[1], tuple | Mapping):
        kind = type(made[1]).__name__
        detail = f"'{target}' returns a {kind} as example_inputs: write a tuple, as (inputs,), or a dict by name"
        raise InvalidConfig(detail=detail)
    return made


def _callable(name: str, attribute: str) -> Callable[[], Any]:
    """What the module calls so. Raises InvalidConfig, and what the module itself raises."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise InvalidConfig(detail=f"no module '{name}' in {Path.cwd()} or on the Python path") from error
    found: object = getattr(module, attribute, None)
    if found is None:
        raise InvalidConfig(detail=f"module '{name}' has no '{attribute}'")
    if not callable(found):
        raise InvalidConfig(detail=f"'{name}:{attribute}' is a {type(found).__name__}, not something to call")
    return found


def _told(error: Exception, verbose: bool) -> list[str]:
    """The traceback; without `verbose` its lines of the user's own files."""
    if verbose:
        return traceback.format_exception(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return traceback.format_list(frames)


def _is_users(file: str) -> bool:
    path = Path(file)
    ours = path.is_relative_to(Path(__file__).parents[1])
    installed = any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))
    return path.is_file() and not ours and not installed
