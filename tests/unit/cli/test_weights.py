"""The commands from their arguments to their output, against a tiny server."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save_file
from typer.testing import CliRunner, Result

from aoti_serve.cli import app
from aoti_serve.signature.golden.file import save_golden
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.token import TOKEN_VARIABLE
from tests.unit.cli.played import (
    Break,
    Played,
    Reply,
    as_json,
    candidate,
    ended,
    playing,
    stored,
    swap_progress,
    version,
    weights_status,
)
from tests.unit.weights.files.test_sharded import TENSORS, sharded

WEIGHTS = "/v2/models/m/weights"
STATUS = as_json(weights_status(last=ended()))
SWAPPING = as_json(weights_status(swap=swap_progress("staging", ("r-one", 10, False))))
# A shell may have started us with Ctrl-C switched off.
COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from aoti_serve.cli import app; app()"
)


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    monkeypatch.setattr(sys, "argv", ["aoti-serve"])
    with playing() as server:
        for route in (f"GET {WEIGHTS}", f"POST {WEIGHTS}", f"POST {WEIGHTS}/rollback"):
            server.replies[route] = Reply(STATUS)
        server.replies["GET /v2/models"] = Reply({"models": ["m"]})
        server.replies[f"GET {WEIGHTS}/versions"] = Reply([stored(2).model_dump(), stored(3).model_dump()])
        monkeypatch.setenv("AOTI_SERVE_URL", server.url)
        yield server


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "step 300.safetensors"
    save_file({"w": np.zeros(1000, np.float32)}, path)
    return str(path)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def says(*arguments: str) -> str:
    """The one line of a command that fails."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.usefixtures("played")
def test_a_swap_ends_with_the_receipts(file: str) -> None:
    result = run("swap", "m", file)
    assert result.exit_code == 0
    assert result.stdout.startswith("m answers with version 3 (step 300)  (")
    assert "checking 0.05, staging 1.10, committing 0.10)" in result.stdout.splitlines()[0]
    assert "r-two    b4ba52  4711  gpu 0   3        3f3a9c1e88d2  1312.4     4.2      2" in result.stdout
    assert result.stderr == ""


def test_how_a_checkpoint_is_read_reaches_the_server(played: Played, file: str) -> None:
    options = ["--rename", r"bert\.=", "--rename", "a=b", "--drop", "pooler.*", "--cast"]
    run("swap", "m", file, *options)
    run("swap", "m", "--uri", "/x", *options)
    run("swap", "m", file, "--as-it-is")
    upload, uri, plain = played.asked_for(WEIGHTS)[1::2]
    given = {"rename": [r"bert\.=", "a=b"], "drop": ["pooler.*"]}
    assert {name: json.loads(upload.query[name]) for name in given} == given
    assert upload.query["cast"] == "true"
    assert {name: json.loads(uri.body)[name] for name in (*given, "cast")} == given | {"cast": True}
    assert (plain.query["rename"], plain.query["drop"], plain.query["cast"]) == ("[]", "[]", "false")


def test_the_files_name_is_the_label_if_there_is_no_other(played: Played, file: str) -> None:
    run("swap", "m", file)
    run("swap", "m", file, "--label", "[red]x[/]")
    run("swap", "m", "s3://bucket/runs/step 7.safetensors?versionId=3")
    run("swap", "m", "--uri", "/mnt/step\t8.safetensors")
    first, second, third, fourth = played.asked_for(WEIGHTS)[1::2]
    assert (first.query, second.query) == ({"label": "step 300"}, {"label": "[red]x[/]"})
    assert json.loads(third.body) == {"uri": "s3://bucket/runs/step 7.safetensors?versionId=3", "label": "step 7"}
    assert json.loads(fourth.body) == {"uri": "/mnt/step\t8.safetensors", "label": "step 8"}


def test_all_options_reach_the_server(played: Played, file: str) -> None:
    options = ["--partial", "--base-version", "3", "--no-strict", "--sha256", "a" * 64]
    options += ["--skip-acceptance", "--no-wait"]
    assert run("swap", "m", file, *options).exit_code == 0
    asked = played.asked_for(WEIGHTS)[-1]
    assert asked.query == {
        "label": "step 300",
        "partial": "true",
        "base_version": "3",
        "strict": "false",
        "sha256": "a" * 64,
        "skip_acceptance": "true",
        "wait": "false",
    }
    assert asked.body == Path(file).read_bytes()


def test_shards_are_sent_as_one_file_and_are_called_as_their_folder(played: Played, tmp_path: Path) -> None:
    index = sharded(tmp_path / "step 1.5", TENSORS, {"a": "x.safetensors", "b": "y.safetensors", "c": "y.safetensors"})
    for source in (index, index.parent):
        assert run("swap", "m", str(source)).exit_code == 0
        asked = played.asked_for(WEIGHTS)[-1]
        assert (asked.query, load(asked.body).keys()) == ({"label": "step 1.5"}, TENSORS.keys())
    run("swap", "m", "s3://bucket/step 7/model.safetensors.index.json")
    assert json.loads(played.asked_for(WEIGHTS)[-1].body)["label"] == "step 7"


def test_shards_that_are_not_whole_are_not_sent(played: Played, tmp_path: Path) -> None:
    index = sharded(tmp_path / "w", TENSORS, {"a": "x.safetensors", "b": "y.safetensors", "c": "y.safetensors"})
    index.with_name("y.safetensors").unlink()
    assert "shard y.safetensors: No such file" in says("swap", "m", str(index))
    assert "holds neither of model.safetensors.index.json" in says("swap", "m", str(tmp_path))
    assert [asked.body for asked in played.asked] == []


def test_a_delta_is_sent_as_it_is(played: Played, file: str) -> None:
    assert run("swap", "m", file, "--delta").exit_code == 0
    asked = played.asked_for(WEIGHTS)[-1]
    assert (asked.query, asked.body) == ({"label": "step 300", "delta": "true"}, Path(file).read_bytes())
    assert "a delta is no partial swap and no adapter" in says(
        "swap", "m", file, "--delta", "--partial", "--base-version", "1"
    )


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "golden.safetensors"
    save_golden([GoldenRequest("one", {"x": np.zeros(3, np.float32)})], path)
    return path


@pytest.mark.parametrize("source", ["file", "s3://bucket/step 7.safetensors"])
def test_golden_requests_are_sent_before_the_swap_that_names_them(
    played: Played, file: str, golden: Path, source: str
) -> None:
    digest = hashlib.sha256(golden.read_bytes()).hexdigest()
    played.replies[f"POST {WEIGHTS}/golden"] = Reply({"digest": digest, "nbytes": 8, "requests": 1})
    assert run("swap", "m", file if source == "file" else source, "--golden", str(golden)).exit_code == 0
    offered, swapped = played.asked[0], played.asked_for(WEIGHTS)[-1]
    assert (offered.path, offered.body) == (f"{WEIGHTS}/golden", golden.read_bytes())
    assert offered.headers["content-type"] == "application/octet-stream"
    assert (swapped.query or json.loads(swapped.body))["golden"] == digest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--golden", "nowhere"], "nowhere: No such file or directory"),
        (["--golden", "FILE"], "tensor 'w' is not called <request>/inputs/<name>"),
        (["--golden", "GOLDEN", "--skip-acceptance"], "with skip_acceptance no golden requests are asked"),
    ],
)
def test_what_is_wrong_with_golden_requests_is_said_before_anything_is_sent(
    played: Played, file: str, golden: Path, arguments: list[str], words: str
) -> None:
    named = {"FILE": file, "GOLDEN": str(golden)}
    assert words in says("swap", "m", file, *[named.get(argument, argument) for argument in arguments])
    assert played.asked == []


@pytest.mark.usefixtures("played")
def test_golden_requests_that_the_server_refuses_end_the_swap(played: Played, file: str, golden: Path) -> None:
    played.replies[f"POST {WEIGHTS}/golden"] = Reply({"error": "golden request 'one': input 'x': wrong"}, 400)
    assert "golden request 'one': input 'x': wrong" in says("swap", "m", file, "--golden", str(golden))
    assert played.asked_for(WEIGHTS) == []


def saved_adapter(folder: Path, **settings: Any) -> Path:
    folder.mkdir()
    save_file({"base_model.model.w": np.zeros(3, np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 16, "bias": "none"} | settings))
    return folder


def test_an_adapter_is_sent_with_what_stands_beside_it_and_is_called_as_its_folder(
    played: Played, tmp_path: Path
) -> None:
    folder = saved_adapter(tmp_path / "sql v1.2", rank_pattern={"q": 8})
    for source in (folder, folder / "adapter_model.safetensors"):
        assert run("swap", "m", str(source), "--adapter", "--base-version", "3").exit_code == 0
        asked = played.asked_for(WEIGHTS)[-1]
        assert json.loads(asked.query.pop("adapter_config")) == {"r": 4, "lora_alpha": 16.0, "rank_pattern": {"q": 8}}
        assert asked.query == {"adapter": "true", "base_version": "3", "label": "sql v1.2"}
        assert asked.body == (folder / "adapter_model.safetensors").read_bytes()


def test_of_an_adapter_elsewhere_the_server_reads_the_settings(played: Played) -> None:
    run("swap", "m", "s3://bucket/sql/adapter_model.safetensors", "--adapter")
    asked = {"uri": "s3://bucket/sql/adapter_model.safetensors", "adapter": True, "label": "sql"}
    assert json.loads(played.asked_for(WEIGHTS)[-1].body) == asked


@pytest.mark.usefixtures("played")
def test_an_adapter_that_cannot_be_merged_is_not_sent(played: Played, tmp_path: Path, file: str) -> None:
    assert "adapter_config.json: No such file" in says("swap", "m", file, "--adapter")
    folder = str(saved_adapter(tmp_path / "dora", use_dora=True))
    assert "adapter_config.json: use_dora True is not supported; merge" in says("swap", "m", folder, "--adapter")
    assert "an adapter is no partial swap" in says(
        "swap", "m", str(saved_adapter(tmp_path / "a")), "--adapter", "--partial", "--base-version", "1"
    )
    assert played.asked == []


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize("command", [["swap", "m", "FILE"], ["swap", "m", "file:///x"], ["rollback", "m"]])
def test_json_is_the_servers_status_and_nothing_else(command: list[str], file: str) -> None:
    result = run(*[file if part == "FILE" else part for part in command], "--json")
    assert json.loads(result.stdout) == STATUS
    assert result.stderr == ""


def test_who_does_not_wait_is_told_how_to_follow(played: Played, file: str) -> None:
    played.replies[f"POST {WEIGHTS}"] = played.replies[f"POST {WEIGHTS}/rollback"] = Reply(SWAPPING, 202)
    follow = f"swap 9c0ffee01234 has begun; follow it with `aoti-serve status m --url {played.url} --watch`\n"
    assert run("swap", "m", file, "--no-wait").stdout == follow
    assert run("swap", "m", "--uri", "/x", "--no-wait").stdout == follow
    assert run("rollback", "m", "--no-wait").stdout == follow
    assert json.loads(run("rollback", "m", "--no-wait", "--json").stdout) == SWAPPING


def test_a_rollback_to_a_version(played: Played) -> None:
    assert "answers with version 3" in run("rollback", "m", "--to", "2").stdout
    assert json.loads(played.asked[-1].body) == {"version": 2}


@pytest.mark.usefixtures("played")
def test_what_is_wrong_with_the_arguments_is_said_before_anything_is_sent(tmp_path: Path, file: str) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04 a pickle")
    assert "no file at nowhere.safetensors; --uri" in says("swap", "m", "nowhere.safetensors")
    assert "aoti-serve convert" in says("swap", "m", str(tmp_path / "model.pt"))
    (tmp_path / "empty").touch()
    assert "empty: not a whole safetensors file: it is empty" in says("swap", "m", str(tmp_path / "empty"))
    assert "the rule '(=' cannot be followed: missing )" in says("swap", "m", file, "--rename", "(=")
    assert "'bert' has no '=': write PATTERN=NEW" in says("swap", "m", file, "--rename", "bert")
    assert "a partial swap needs --base-version" in says("swap", "m", file, "--partial")
    assert "sha256" in says("swap", "m", file, "--sha256", "abc")
    assert "label" in says("swap", "m", file, "--label", "a\x1b[2J")
    assert "base_version" in says("swap", "m", file, "--base-version", "-1").replace("--base-version", "base_version")


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_what_is_wrong_with_the_server_is_said_before_the_upload(played: Played, file: str, status: int) -> None:
    played.replies[f"GET {WEIGHTS}"] = Reply({"error": "not now"}, status)
    assert says("swap", "m", file).startswith("error: not now")
    assert [asked.body for asked in played.asked] == [b""]


def test_a_swap_that_fails_says_which_replica_and_why(played: Played, file: str) -> None:
    why = "replica r-two could not stage version 4, nothing has changed: tensor 'a[0]': missing from the weights"
    played.replies[f"POST {WEIGHTS}"] = Reply({"error": why}, 400)
    assert says("swap", "m", file) == f"error: {why}\n"


def test_with_json_a_failure_is_json_as_well(played: Played, file: str) -> None:
    played.replies[f"POST {WEIGHTS}"] = Reply({"error": "not now", "type": "Stopping"}, 503)
    refused, nowhere = run("swap", "m", file, "--json"), run("swap", "m", "nowhere.safetensors", "--json")
    assert [(result.exit_code, result.stderr) for result in (refused, nowhere)] == [(1, "")] * 2
    assert json.loads(refused.stdout) == {
        "error": "not now",
        "type": "ServerRefused",
        "facts": {"code": 503, "detail": "not now", "kind": "Stopping"},
    }
    assert json.loads(nowhere.stdout)["type"] == "UnreadableWeights"


def test_the_status_of_all_models(played: Played) -> None:
    played.replies["GET /v2/models"] = Reply({"models": ["m", "n"]})
    played.replies["GET /v2/models/n/weights"] = Reply(SWAPPING | {"model": "n"})
    shown = run("status").stdout
    assert "m  version 3 (step 300), previous 2 (step 200), epoch 7" in shown
    assert "\n\nn  version 3" in shown
    assert "swap 9c0ffee01234 to version 4: staging, 0 of 1 replicas" in shown
    assert "last: swap 77aa00bb11cc to version 3: committed" in shown
    assert json.loads(run("status", "--json").stdout) == [STATUS, SWAPPING | {"model": "n"}]
    assert json.loads(run("status", "m", "--json").stdout) == [STATUS]


def test_a_url_needs_no_scheme(played: Played) -> None:
    assert run("status", "m", "--url", played.url.removeprefix("http://")).exit_code == 0


@pytest.mark.usefixtures("played")
def test_the_stored_versions() -> None:
    shown = run("weights", "m").stdout
    assert "      2  previous, resident  step 200  2f3a9c1e88d2       14  40.0 MB  10.0 MB" in shown
    assert "      3  current             step 300" in shown
    assert json.loads(run("weights", "m", "--json").stdout) == [stored(2).model_dump(), stored(3).model_dump()]


def test_what_others_have_written_reaches_the_screen_as_text(played: Played) -> None:
    label = "[bold]\x1b[2J" + "x" * 200
    played.replies[f"GET {WEIGHTS}"] = Reply(as_json(weights_status(current=version(3, label=label))))
    played.replies[f"GET {WEIGHTS}/versions"] = Reply([version(3, label=label).model_dump()])
    for command in (["status", "m"], ["weights", "m"]):
        assert "[bold]\\x1b[2J" + "x" * 200 in run(*command).stdout


@pytest.mark.usefixtures("played")
def test_a_model_that_is_not_there_is_in_the_servers_words() -> None:
    assert says("status", "other") == "error: no GET /v2/models/other/weights\n"


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupt(process: subprocess.Popen[str], when: Callable[[], Any]) -> tuple[str, str]:
    once(process, when)
    return process.communicate(timeout=30)


def once(process: subprocess.Popen[str], when: Callable[[], Any]) -> None:
    """Ctrl-C as soon as it is so."""
    deadline = time.monotonic() + 30
    while not when():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)


COMMITTED = weights_status(current=version(4), last=ended(id="5eed", version=4))
HELD = weights_status(candidate=candidate(), last=ended(id="5eed", version=4, outcome="candidate"))
SWAP_ENDED = "swap 5eed has ended on the server"
FAILED = weights_status(last=ended(id="5eed", version=4, outcome="failed", error="a reason"))


@pytest.mark.parametrize(
    ("after", "what"),
    [
        pytest.param(SWAPPING, "swap 9c0ffee01234 goes on on the server (phase staging)", id="goes-on"),
        pytest.param(as_json(COMMITTED), f"{SWAP_ENDED}: version 4 answers", id="committed"),
        pytest.param(as_json(HELD), f"{SWAP_ENDED}: version 3 answers, version 4 is a candidate", id="candidate"),
        pytest.param(as_json(FAILED), "swap 5eed has failed on the server: a reason", id="failed"),
        pytest.param(STATUS, "the server has not begun the change, so nothing has changed", id="not-begun"),
        pytest.param(None, "whether the server has begun the change is not known: gone", id="unknown"),
    ],
)
def test_ctrl_c_ends_the_command_and_says_what_became_of_the_swap(
    played: Played, file: str, after: dict[str, Any] | None, what: str
) -> None:
    def never() -> Reply:
        played.replies[f"GET {WEIGHTS}"] = Reply({"error": "gone"}, 503) if after is None else Reply(after)
        played.closing.wait()
        return Reply(STATUS)

    played.replies[f"POST {WEIGHTS}"] = never
    with started("swap", "m", file) as process:
        shown, said = interrupt(process, lambda: len(played.asked_for(WEIGHTS)) == 2)
    assert (shown, said) == ("", f"interrupted: {what}; see `aoti-serve status m --url {played.url}`\n")
    assert process.returncode == 130


def test_ctrl_c_while_a_rollback_waits_says_what_became_of_it(played: Played) -> None:
    def never() -> Reply:
        played.replies[f"GET {WEIGHTS}"] = Reply(SWAPPING)
        played.closing.wait()
        return Reply(STATUS)

    played.replies[f"POST {WEIGHTS}/rollback"] = never
    with started("rollback", "m") as process:
        _, said = interrupt(process, lambda: played.asked_for(f"{WEIGHTS}/rollback"))
    assert said.startswith("interrupted: swap 9c0ffee01234 goes on on the server (phase staging); see")


def test_a_second_ctrl_c_ends_the_command_at_once(played: Played, file: str) -> None:
    def never() -> Reply:
        played.replies[f"GET {WEIGHTS}"] = never
        played.closing.wait()
        return Reply(STATUS)

    played.replies[f"POST {WEIGHTS}"] = never
    with started("swap", "m", file) as process:
        once(process, lambda: len(played.asked_for(WEIGHTS)) == 2)
        _, said = interrupt(process, lambda: len(played.asked_for(WEIGHTS)) == 3)
    assert said.startswith("interrupted: whether the server has begun the change is not known; see")
    assert process.returncode == 130


def test_ctrl_c_during_an_upload_changes_nothing(tmp_path: Path) -> None:
    large = tmp_path / "large.safetensors"
    save_file({"w": np.zeros(8 * 2**20, np.float32)}, large)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with started("swap", "m", str(large), "--url", url) as process:
            first, _ = listener.accept()  # the status, on a connection that is then closed
            first.recv(10_000)
            content = json.dumps(STATUS).encode()
            head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
            first.sendall(head.encode() + content)
            first.close()
            upload, _ = listener.accept()
            upload.recv(10_000)  # and no more
            _, said = interrupt(process, lambda: True)
            upload.close()
    assert said == "interrupted: the upload was not finished, so nothing has changed\n"
    assert process.returncode == 130


def test_watching_prints_every_change_until_ctrl_c(played: Played) -> None:
    played.streams += [[STATUS, Break()], [SWAPPING]]
    with started("status", "--watch", "--json") as process:
        shown, said = interrupt(process, lambda: len(played.asked_for(f"{WEIGHTS}/events")) == 3)
    assert [json.loads(line) for line in shown.splitlines()] == [STATUS, SWAPPING]
    assert "m: the connection to" in said
    assert "Traceback" not in said
    assert process.returncode == 0
