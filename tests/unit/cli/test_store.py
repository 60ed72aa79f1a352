"""`aoti-serve store`, on a real store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from aoti_serve.cli import app
from aoti_serve.signature.golden.file import save_golden
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.weights.store.store import Store
from tests.unit.weights.store.crasher import commit_two, content
from tests.unit.weights.store.test_checkup import flip, overwrite


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Version 2 answers, 1 is the way back."""
    return commit_two(Store(tmp_path / "m.versions", "m", 4), tmp_path, "step\x1b ").root


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["store", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_check_shows_every_version_and_what_it_is(root: str) -> None:
    result = run("check", root)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[:2] for line in lines[2:4]] == [["1", "previous,"], ["2", "current,"]]
    assert all("whole" in line for line in lines[2:4])
    assert "epoch 2, term 1" in result.stdout
    assert "all of it is whole" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_check_of_a_damaged_store_exits_with_1_and_names_the_file(root: str) -> None:
    flip(Path(root) / "versions" / "1" / "weights.safetensors")
    result = run("check", root)
    assert result.exit_code == 1
    assert "damaged: versions/1/weights.safetensors: its sha256 is" in result.stdout
    assert "set-current" in result.stdout
    found = json.loads(run("check", root, "--json").stdout)
    assert (found["whole"], found["current"], found["previous"]) == (False, 2, 1)
    assert [version["damage"] is None for version in found["versions"]] == [False, True]


def test_a_store_is_made_of_an_exported_version_only_if_that_is_said(root: str, tmp_path: Path) -> None:
    target, new = tmp_path / "kept.safetensors", str(tmp_path / "new")
    run("export", root, "2", "--out", str(target))
    refused = run("import", new, str(target))
    assert refused.exit_code == 1
    assert "there is no store here" in refused.stderr
    assert "--create makes a new one" in refused.stderr
    assert not Path(new).exists()
    assert "is version 1 now" in run("import", new, str(target), "--create").stdout
    assert "version 1 is committed: epoch 1" in run("set-current", new, "1").stdout
    with (store := Store(Path(new), "m", 2)).open(store.version(1)) as file:
        assert file.read() == content(2)


def test_the_way_out_of_a_damaged_store(root: str) -> None:
    overwrite(Path(root) / "CURRENT")
    assert "epoch unknown" in run("check", root).stdout
    chosen = run("set-current", root, "1")
    assert "version 1 is committed: epoch" in chosen.stdout
    assert "nothing is known before it" in chosen.stdout
    assert run("check", root).exit_code == 0


def test_a_version_goes_out_and_comes_in_again(root: str, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    exported = json.loads(run("export", root, "1", "--out", str(target), "--json").stdout)
    assert target.read_bytes() == content(1)
    assert json.loads(Path(exported["record"]).read_text()) == exported["version"]
    imported = run("import", root, str(target))
    assert f"{target} is version 3 now" in imported.stdout
    assert "no package was asked" in imported.stdout
    answer = json.loads(run("import", root, str(target), "--label", "again", "--json").stdout)
    assert (answer["version"]["label"], answer["checked_against_a_package"]) == ("again", False)
    committed = json.loads(run("set-current", root, "3", "--json").stdout)
    assert (committed["epoch"], committed["version"]["number"], committed["previous"]["number"]) == (3, 3, 2)


def test_golden_requests_go_out_and_come_in_with_their_version(root: str, tmp_path: Path) -> None:
    golden, plain, target = tmp_path / "golden", tmp_path / "plain.safetensors", tmp_path / "out.safetensors"
    save_golden([GoldenRequest("one", {"x": np.zeros(3, np.float32)})], golden)
    plain.write_bytes(content(3))
    assert (
        f"{plain} is version 3 now, with 1 golden request;"
        in run("import", root, str(plain), "--golden", str(golden)).stdout
    )
    assert "out.golden.safetensors (1 golden request)" in run("export", root, "3", "--out", str(target)).stdout
    answer = json.loads(run("import", root, str(target), "--json").stdout)
    assert answer["version"]["golden"]["requests"] == 1
    assert "golden request" not in run("import", root, str(target), "--no-golden").stdout
    assert "leave out --golden" in run("import", root, str(target), "--no-golden", "--golden", str(golden)).stderr
    written = json.loads(run("export", root, "3", "--out", str(tmp_path / "x"), "--no-golden", "--json").stdout)
    assert written["golden"] is None
    folder = tmp_path / "folder"
    folder.mkdir()
    plain.rename(folder / "model.safetensors")
    assert json.loads(run("import", root, f"{folder}/.", "--json").stdout)["version"]["golden"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["check", "nowhere"], "there is no store here", id="no-store"),
        pytest.param(["set-current", "ROOT", "7"], "version 7 is not stored; available: [1, 2]", id="no-version"),
        pytest.param(["import", "ROOT", "nofile"], "no file at nofile", id="no-file"),
        pytest.param(["check", "nowhere://x/y"], "nowhere", id="no-such-scheme"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(root: str, arguments: list[str], says: str) -> None:
    result = run(*[root if argument == "ROOT" else argument for argument in arguments])
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stdout == ""
