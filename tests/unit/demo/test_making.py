"""What keeps the demo from being made is told before anything is trained or compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from aoti_serve.demo.configuration import demo_in
from aoti_serve.demo.making import make_demo
from aoti_serve.errors import StartFailed


def silent(text: str) -> None:
    pass


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(StartFailed, match="--folder /proc/demo: it cannot be made"):
        demo_in(Path("/proc/demo"))


def test_a_demo_is_there_once_its_last_file_is(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "demo"
    assert not demo_in(folder)
    (folder / "digits.pt2").touch()
    assert not demo_in(folder)
    (folder / "v3.safetensors").touch()
    assert demo_in(folder)


def test_without_a_compiler_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(StartFailed, match=r"there is no g\+\+: install it"):
        make_demo(tmp_path, silent, silent)
    assert list(tmp_path.iterdir()) == []
