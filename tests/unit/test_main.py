"""`python -m aoti_serve`, from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import aoti_serve
from aoti_serve.cli import app

MAIN = [sys.executable, "-m", "aoti_serve"]
# Says when the command line begins to be imported.
WATCHED = """
import signal, sys
from aoti_serve.__main__ import main

class Watcher:
    def find_spec(self, name, *_):
        if name == "aoti_serve.cli":
            print("now", flush=True)

sys.meta_path.insert(0, Watcher())
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize(
    "command",
    [[], ["up"], ["down"], ["status"], ["demo"], ["demo", "traffic"], ["init"], ["check"], ["store", "check"]],
)
def test_help_has_two_names_everywhere(command: list[str], option: str) -> None:
    result = CliRunner().invoke(app, [*command, option])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_the_version_is_told() -> None:
    done = subprocess.run([*MAIN, "--version"], capture_output=True, text=True, check=True)
    first, *others = done.stdout.splitlines()
    assert first == f"aoti-serve {aoti_serve.__version__}"
    assert [line.split()[0] for line in others] == ["torch", "ray", "python"]


def test_there_is_no_such_option_as_fast_any_more() -> None:
    result = CliRunner().invoke(app, ["up", "x.yaml", "--no-fast"])
    assert result.exit_code == 2
    assert "No such option" in result.output


@pytest.mark.parametrize(
    ("words", "command", "detail"),
    [
        (["swap", "cls", "--json"], "aoti-serve swap", "SOURCE"),
        (["swap", "cls", "x", "--base-version", "x", "--json"], "aoti-serve swap", "--base-version"),
        (["store", "check", "--json"], "aoti-serve store check", "STORE"),
        (["store", "sheck", "x", "--json"], "aoti-serve store", "sheck"),
        (["statsu", "--json"], "aoti-serve", "statsu"),
        (["--json"], "aoti-serve", "--version"),
    ],
)
def test_wrong_use_is_json_where_that_was_asked(words: list[str], command: str, detail: str) -> None:
    result = CliRunner().invoke(app, words, prog_name="aoti-serve")
    assert (result.exit_code, result.stderr) == (2, "")
    told = json.loads(result.stdout)
    assert (told["type"], told["facts"]["command"]) == ("WrongUsage", command)
    assert detail in told["error"]


def test_else_it_is_words_for_people() -> None:
    result = CliRunner().invoke(app, ["swap", "cls"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage:" in result.stderr


@pytest.mark.parametrize("words", [["--version", "--json"], ["swap", "--json", "--help"]])
def test_what_is_right_ends_as_without_it(words: list[str]) -> None:
    assert CliRunner().invoke(app, words).exit_code == 0


def test_ctrl_c_while_it_is_imported_shows_no_traceback() -> None:
    command = [sys.executable, "-c", WATCHED, "status", "--url", "http://127.0.0.1:9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(30) in (-signal.SIGINT, 130, 1)


def test_the_versions_are_told_to_scripts() -> None:
    done = subprocess.run([*MAIN, "--version", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["aoti-serve"] == aoti_serve.__version__


def test_json_alone_asks_for_nothing() -> None:
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 2
    assert "--version" in result.output


def test_bash_completes_commands_and_options() -> None:
    """As the script of `aoti-serve --show-completion bash` asks."""
    asked = {"_AOTI_SERVE_COMPLETE": "complete_bash", "COMP_WORDS": "aoti-serve ch", "COMP_CWORD": "1"}
    done = subprocess.run(MAIN, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["check"]
    asked |= {"COMP_WORDS": "aoti-serve up --gr", "COMP_CWORD": "2"}
    done = subprocess.run(MAIN, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["--grpc-port"]
