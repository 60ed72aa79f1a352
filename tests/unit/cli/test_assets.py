"""`swap --asset`: what is sent before the swap, and what the swap names."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from shutil import copyfile

from tests.unit.cli.played import Played, Reply, as_json, ended, weights_status
from tests.unit.cli.test_weights import WEIGHTS, file, played, run, says, token

__all__ = ["file", "played", "token"]  # fixtures

DONE = as_json(weights_status(last=ended(outcome="committed"), assets=("labels.json",)))


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def accepting(played: Played) -> None:
    played.replies |= {f"POST {WEIGHTS}": Reply(DONE), f"GET {WEIGHTS}": Reply(DONE)}
    played.replies[f"POST {WEIGHTS}/assets"] = Reply({"digest": "x"})


def test_files_are_sent_first_and_named_by_their_sha256(played: Played, file: str, tmp_path: Path) -> None:
    for name in ("labels.json", "new.json"):
        (tmp_path / name).write_bytes(name.encode())
    given = ("--asset", str(tmp_path / "labels.json"), "--asset", f"vocab.json={tmp_path}/new.json")
    accepting(played)
    assert run("swap", "m", file, *given).exit_code == 0
    assert [asked.body for asked in played.asked_for(f"{WEIGHTS}/assets")] == [b"labels.json", b"new.json"]
    named = json.loads(played.asked_for(WEIGHTS)[-1].query["assets"])
    assert named == {"labels.json": digest(b"labels.json"), "vocab.json": digest(b"new.json")}


def test_a_folder_brings_what_the_processor_reads(played: Played, file: str, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    copyfile(file, folder / "model.safetensors")
    for name in ("labels.json", "readme.json"):
        (folder / name).write_bytes(name.encode())
    accepting(played)
    assert run("swap", "m", str(folder)).exit_code == 0
    assert json.loads(played.asked_for(WEIGHTS)[-1].query["assets"]) == {"labels.json": digest(b"labels.json")}


def test_a_file_that_is_not_there_is_said_before_anything_is_sent(played: Played, file: str) -> None:
    assert "assets: nothing.json: No such file or directory" in says("swap", "m", file, "--asset", "nothing.json")
    assert played.asked == []
