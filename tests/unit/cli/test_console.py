"""What the commands share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aoti_serve.cli.console import bytes_text, print_json, reports_errors
from aoti_serve.errors import InvalidConfig, NoAdminToken


def test_an_error_of_ours_is_its_text_on_standard_error_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    @reports_errors
    def command(detail: str) -> None:
        raise InvalidConfig(detail=detail)

    with pytest.raises(SystemExit) as caught:
        command("'[bold]' is not a name " + "x" * 200)
    output = capsys.readouterr()
    assert (caught.value.code, output.out) == (1, "")
    assert output.err == "error: '[bold]' is not a name " + "x" * 200 + "\n"


def test_facts_that_json_does_not_know_are_written_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    @reports_errors
    def command(as_json: bool) -> None:
        raise NoAdminToken(url="u", path=Path("/t"), variable="v")

    with pytest.raises(SystemExit):
        command(as_json=True)
    assert json.loads(capsys.readouterr().out)["facts"] == {"url": "u", "path": "/t", "variable": "v"}


def test_any_other_error_keeps_its_traceback() -> None:
    @reports_errors
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()


def test_a_command_keeps_its_name_and_its_help() -> None:
    @reports_errors
    def command() -> None:
        """Its help."""

    assert (command.__name__, command.__doc__) == ("command", "Its help.")


def test_json_goes_to_standard_output_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"label": "[red]" + "x" * 300})
    assert json.loads(capsys.readouterr().out) == {"label": "[red]" + "x" * 300}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        pytest.param(0, "0 B", id="nothing"),
        pytest.param(1023, "1023 B", id="bytes"),
        pytest.param(1536, "1.5 KB", id="kilobytes"),
        pytest.param(5 * 2**20, "5.0 MB", id="megabytes"),
        pytest.param(3 * 2**40, "3072.0 GB", id="no-unit-above"),
    ],
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert bytes_text(count) == text
