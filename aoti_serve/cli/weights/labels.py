"""The command for labels that can be moved: `label`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from aoti_serve.cli.answers import safe, value_of
from aoti_serve.cli.client import DEFAULT_URL, AdminClient, Url
from aoti_serve.cli.console import AsJson, out, print_json, reports_errors
from aoti_serve.cli.weights.views import ModelArgument
from aoti_serve.errors import InvalidBody, problems
from aoti_serve.weights.labels import LabelChange, expectation


@reports_errors
def label(
    model: ModelArgument,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The label, such as stable.")] = None,
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="The version that it names now.")] = None,
    expected: Annotated[
        str, typer.Option(metavar="N|none", help="Refuse unless it names version N now, or none: is not there.")
    ] = "any",
    delete: Annotated[bool, typer.Option("--delete", help="Take the label away.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the labels of a model's weights versions, or let the label NAME name VERSION."""
    client = AdminClient(url, model)
    if name is None and not delete:
        answer = client.labels()
    else:
        change = _change(name, version, expected, delete=delete)
        if delete and change.expected is not None:
            _check_there(client, change.name)
        answer = client.relabel(change)
    if as_json:
        print_json(answer)
    else:
        labels = value_of(dict[str, int], answer)
        out.print("\n".join(f"{name} {number}" for name, number in labels.items()) or f"{model} has no labels")


def _check_there(client: AdminClient, name: str) -> None:
    """To delete a label that is not there is most often a typing error."""
    labels = value_of(dict[str, int], client.labels())
    if name not in labels:
        raise InvalidBody(detail=f"{client.model} has no label '{safe(name)}'; it has {', '.join(labels) or 'none'}")


def _change(name: str | None, version: int | None, expected: str, *, delete: bool) -> LabelChange:
    if delete is (version is not None):
        raise InvalidBody(detail="name the VERSION for the label, or say --delete; one of both")
    asked: dict[str, Any] = {"name": name, "version": version, "expected": expectation(expected)}
    try:
        return LabelChange.model_validate(asked)
    except ValidationError as error:
        raise InvalidBody(detail=safe(problems(error.errors()))) from error
