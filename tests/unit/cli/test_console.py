"""What the commands share."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.cli import console
from aoti_serve.cli.console import ProgressConsole, bytes_text, cut_name, cut_names, phases, print_json, reports_errors
from aoti_serve.errors import InvalidConfig, MissingTensor, NoAdminToken

LONG = "bert.encoder.layer.11.attention.output.dense.weight"


def test_an_error_of_ours_is_its_text_on_standard_error_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    @reports_errors
    def command(detail: str) -> None:
        raise InvalidConfig(detail=detail)

    with pytest.raises(SystemExit) as caught:
        command("'[bold]' is not a name " + "x" * 200)
    output = capsys.readouterr()
    assert (caught.value.code, output.out) == (1, "")
    assert output.err == "error: '[bold]' is not a name " + "x" * 200 + "\n"


def test_commands_in_an_error_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "aoti-serve").touch()
    monkeypatch.setattr("sys.argv", [str(tmp_path / "aoti-serve")])
    monkeypatch.chdir(tmp_path)

    @reports_errors
    def command() -> None:
        raise InvalidConfig(detail="aoti-serve wants `aoti-serve token` and `rollback`")

    with pytest.raises(SystemExit):
        command()
    assert capsys.readouterr().err == "error: aoti-serve wants `./aoti-serve token` and `rollback`\n"


@pytest.mark.parametrize(
    ("terminal", "verbose", "told"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_phases_are_told_to_people_and_to_scripts_that_ask(
    terminal: bool, verbose: bool, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "progress_out", ProgressConsole(file=screen, force_terminal=terminal))
    with phases(verbose) as phase:
        phase("reading w.pt")
    assert ("reading w.pt" in screen.getvalue()) is told


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


@pytest.mark.parametrize(
    ("width", "cut"),
    [
        pytest.param(len(LONG), LONG, id="it-fits"),
        pytest.param(len(LONG) - 1, "bert…layer.11.attention.output.dense.weight", id="a-part"),
        pytest.param(42, "bert…11.attention.output.dense.weight", id="two"),
        pytest.param(12, "bert…weight", id="all-but-the-ends"),
        pytest.param(10, "ber…weight", id="no-whole-part"),
    ],
)
def test_of_a_long_name_the_ends_are_shown(width: int, cut: str) -> None:
    assert cut_name(LONG, width) == cut


@given(st.text("ab.", max_size=40), st.integers(1, 45))
def test_a_cut_name_fits_and_begins_and_ends_as_the_name(name: str, width: int) -> None:
    cut = cut_name(name, width)
    assert len(cut) <= width
    begin, _, end = cut.partition("…")
    assert name.startswith(begin)
    assert name.endswith(end)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param(f"tensor '{LONG}': x.", "tensor 'bert…layer.11.attention.output.dense.weight': x.", id="quoted"),
        pytest.param(f"no {LONG}.", "no bert…layer.11.attention.output.dense.weight.", id="at-the-end"),
        pytest.param(f"/runs/{LONG}/x: gone", f"/runs/{LONG}/x: gone", id="a-path"),
        pytest.param(f"s3://{LONG}/x", f"s3://{LONG}/x", id="a-host"),
        pytest.param(f"{LONG}, {LONG.replace('en', 'de', 1)}", f"{LONG}, {LONG.replace('en', 'de', 1)}", id="alike"),
        pytest.param("w.b.c " + "x" * 300, "w.b.c " + "x" * 300, id="others"),
    ],
)
def test_names_in_a_text_are_cut_and_nothing_else(text: str, shown: str) -> None:
    assert cut_names(text, 80) == shown


def test_an_error_on_a_screen_has_its_names_cut_and_in_json_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @reports_errors
    def command(as_json: bool) -> None:
        raise MissingTensor(name=LONG)

    file = io.StringIO()
    screen = ProgressConsole(file=file, width=80, force_terminal=True, soft_wrap=True, color_system=None)
    monkeypatch.setattr(console, "progress_out", screen)
    for as_json in (False, True):
        with pytest.raises(SystemExit):
            command(as_json=as_json)
    assert "'bert…layer.11.attention.output.dense.weight'" in file.getvalue()
    assert json.loads(capsys.readouterr().out)["facts"]["name"] == LONG
