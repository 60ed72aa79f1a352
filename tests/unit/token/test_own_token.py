"""The admin token: where it comes from, and that only its owner can read it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aoti_serve.errors import InvalidConfig
from aoti_serve.token import TOKEN_VARIABLE, ensure_token, read_token, token_path, token_place


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    return tmp_path / "config" / "aoti-serve" / "admin-token"


def written(file: Path, content: str, mode: int = 0o600) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    file.chmod(mode)


def test_there_is_none_at_first() -> None:
    assert read_token() is None


def test_without_xdg_it_lies_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert token_path() == tmp_path / ".config" / "aoti-serve" / "admin-token"


def test_it_is_made_once_and_only_its_owner_can_read_it(file: Path) -> None:
    token = ensure_token()
    assert len(token) >= 32
    assert (read_token(), ensure_token(), file.read_text()) == (token, token, token + "\n")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_those_who_start_at_once_agree_on_one(file: Path) -> None:
    together = threading.Barrier(8)

    def start(_: int) -> str:
        together.wait()
        return ensure_token()

    with ThreadPoolExecutor(8) as starts:
        assert set(starts.map(start, range(8))) == {read_token()}
    assert list(file.parent.iterdir()) == [file]


def test_two_tokens_differ(file: Path) -> None:
    first = ensure_token()
    file.unlink()
    assert ensure_token() != first


def test_an_empty_file_is_filled(file: Path) -> None:
    written(file, " \n")
    assert read_token() is None
    assert ensure_token() == read_token()


def test_the_environment_comes_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(file, "from-the-file")
    monkeypatch.setenv(TOKEN_VARIABLE, " from-the-environment ")
    assert (read_token(), ensure_token()) == ("from-the-environment", "from-the-environment")


def test_where_it_stands_is_where_it_was_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert token_place() == str(file)
    monkeypatch.setenv(TOKEN_VARIABLE, "set")
    assert token_place() == TOKEN_VARIABLE


def test_a_blank_variable_does_not_count(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(file, "from-the-file\n")
    monkeypatch.setenv(TOKEN_VARIABLE, "  ")
    assert read_token() == "from-the-file"


def test_the_environment_makes_no_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "set")
    ensure_token()
    assert not file.exists()


@pytest.mark.parametrize("mode", [pytest.param(mode, id=oct(mode)) for mode in (0o640, 0o604, 0o620, 0o644, 0o666)])
def test_a_file_that_others_may_read_is_refused_and_the_remedy_is_named(file: Path, mode: int) -> None:
    written(file, "token", mode)
    for use in (read_token, ensure_token):
        with pytest.raises(InvalidConfig, match=f"chmod 600 {file}"):
            use()


def test_a_place_that_cannot_be_made_is_named_with_a_way_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/nowhere")
    with pytest.raises(InvalidConfig, match=f"/proc/nowhere/aoti-serve/admin-token .*: set {TOKEN_VARIABLE}"):
        ensure_token()


@pytest.mark.parametrize("token", ["tök", "two\nlines"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_quoted(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(InvalidConfig, match=f"{TOKEN_VARIABLE} is no token: a header holds printable ASCII only"):
        read_token()
