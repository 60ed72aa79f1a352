"""Every command, with its arguments and options."""

from __future__ import annotations

import re

import typer.main
from typer._click import core as click

from aoti_serve.cli import app
from reference.markdown import table


def text() -> str:
    return "\n\n".join(_sections("aoti-serve", typer.main.get_command(app)))


def _sections(name: str, command: click.Command) -> list[str]:
    said = [_section(name, command)]
    for sub, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            said += _sections(f"{name} {sub}", inner)
    return said


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    about = _prose(command.help or "")
    usage = " ".join(command.get_usage(context).removeprefix("Usage:").split())
    rows = [_row(param, context) for param in command.params if not getattr(param, "hidden", False)]
    parts = [f"## {name}", about, f"```text\n{usage}\n```"]
    return "\n\n".join([*parts, *([table(("", "", "default"), rows)] if rows else [])])


def _row(param: click.Parameter, context: click.Context) -> tuple[str, ...]:
    names = ", ".join(f"`{each}`" for each in (*param.opts, *param.secondary_opts))
    shown = f"`{(param.name or '').upper()}`" if param.param_type_name == "argument" else names
    fallback = param.get_default(context, call=False)
    quiet = fallback is None or fallback is False or callable(fallback) or not str(fallback)
    return shown, _prose(getattr(param, "help", "") or ""), "" if quiet else f"`{fallback}`"


def _prose(said: str) -> str:
    said = re.sub(r"\[/?(?:bold|dim|cyan|green|yellow|red|italic)\]", "", said)
    return " ".join(said.replace("\b", "").replace("\f", "").replace("<", "&lt;").split())
