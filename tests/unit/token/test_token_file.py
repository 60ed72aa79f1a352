"""Files of tokens: what may stand in them, and what a change of them does."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aoti_serve.errors import InvalidConfig
from aoti_serve.token import TokenFile, TokenSet, read_tokens

OLD, NEW, THIRD = (f"{name}-token-0123456789" for name in ("old", "new", "third"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "tokens", f"ci: {OLD}\n")


@pytest.fixture
def tokens() -> TokenSet:
    return TokenSet(b"key")


@pytest.fixture
def file(path: Path, tokens: TokenSet) -> TokenFile:
    file = TokenFile(path, tokens)
    file.load()
    return file


def written(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def looked(file: TokenFile) -> None:
    """A change counts when it has lasted from one look to the next."""
    file.look()
    file.look()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param(f"{OLD}\n", {OLD: ""}, id="one"),
        pytest.param(OLD, {OLD: ""}, id="no end of line"),
        pytest.param(f"# keys\n\n  ci: {OLD}  \r\nnightly:{NEW}\n", {OLD: "ci", NEW: "nightly"}, id="names"),
        pytest.param(f"\ufeff{OLD}\n", {OLD: ""}, id="with a mark of order"),
        pytest.param("AbC/+~._-0123456==\n", {"AbC/+~._-0123456==": ""}, id="all that a header may carry"),
    ],
)
def test_a_line_is_a_token_perhaps_with_a_name(tmp_path: Path, content: str, found: dict[str, str]) -> None:
    assert read_tokens(written(tmp_path / "tokens", content)) == found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param("", "holds no token", id="empty"),
        pytest.param("# none\n\n", "holds no token", id="only a comment"),
        pytest.param(f"{OLD}\nsecret\n", "line 2: a token has at least 16 characters", id="short"),
        pytest.param(f"{OLD} {NEW}\n", "line 1: this is neither", id="two in a line"),
        pytest.param(f"a b: {OLD}\n", "line 1: this is neither", id="a blank in the name"),
        pytest.param(f": {OLD}\n", "line 1: this is neither", id="no name"),
        pytest.param(f"ci: {OLD[:-1]}\N{SNOWMAN}\n", "line 1: this is neither", id="not ASCII"),
        pytest.param(b"\xff\xfe\x00" * 20, "line 1: this is neither", id="bytes"),
        pytest.param(b"\0" * (2**20 + 1), "has more than", id="large"),
    ],
)
def test_what_is_no_token_is_named_and_not_quoted(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(InvalidConfig, match=says) as caught:
        read_tokens(written(tmp_path / "tokens", content))
    assert str(tmp_path / "tokens") in str(caught.value)
    assert not any(token[:8] in str(caught.value) for token in (OLD, NEW, "secret"))


@pytest.mark.parametrize("mode", [pytest.param(mode, id=oct(mode)) for mode in (0o604, 0o644, 0o602, 0o666)])
def test_a_file_that_all_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InvalidConfig, match="chmod o="):
        read_tokens(written(tmp_path / "tokens", OLD, mode))


def test_a_group_may_read_it(tmp_path: Path) -> None:
    """As Kubernetes has it for a pod with an `fsGroup`."""
    assert read_tokens(written(tmp_path / "tokens", OLD, 0o440))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, says in (("pipe", "is no file"), (".", "cannot be read"), ("none", "cannot be read: No such file")):
        with pytest.raises(InvalidConfig, match=says):
            read_tokens(tmp_path / name)


def test_a_change_holds_without_a_restart(file: TokenFile, path: Path, tokens: TokenSet) -> None:
    written(path, f"ci: {OLD}\nci: {NEW}\n")
    looked(file)
    assert (tokens.name_of(OLD), tokens.name_of(NEW)) == ("ci", "ci")
    written(path, f"ci: {NEW}\n")
    looked(file)
    assert (tokens.name_of(OLD), tokens.name_of(NEW)) == (None, "ci")


def test_another_file_in_its_place_counts(file: TokenFile, path: Path, tokens: TokenSet) -> None:
    before = path.stat()
    other = written(path.with_name("other"), f"ci: {NEW}\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a tool that keeps times
    assert other.stat().st_size == before.st_size
    other.replace(path)
    looked(file)
    assert (tokens.name_of(OLD), tokens.name_of(NEW)) == (None, "ci")


def test_a_link_to_another_folder_counts_as_kubernetes_changes_a_secret(tmp_path: Path, tokens: TokenSet) -> None:
    for folder, token in (("one", OLD), ("two", NEW)):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder / "tokens", token)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "tokens").symlink_to("..data/tokens")
    file = TokenFile(tmp_path / "tokens", tokens)
    file.load()
    (tmp_path / "..next").symlink_to("two")
    (tmp_path / "..next").replace(tmp_path / "..data")
    (tmp_path / "one" / "tokens").unlink()
    looked(file)
    assert (tokens.name_of(OLD), tokens.name_of(NEW) is None) == (None, False)


def test_a_file_that_is_being_written_is_not_taken(file: TokenFile, path: Path, tokens: TokenSet) -> None:
    for length in range(20, 40):
        written(path, f"{NEW}\n{THIRD}\n"[:length])
        file.look()
        assert (tokens.name_of(OLD), len(tokens)) == ("ci", 1)
    file.look()
    assert tokens.name_of(NEW)


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_text(OLD[:10]),
    "open to all": lambda path: path.chmod(0o644),
    "a folder": lambda path: path.rename(path.with_name("away")).with_name("tokens").mkdir(),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_what_was_good_holds_until_the_file_is_good_again(
    file: TokenFile, path: Path, tokens: TokenSet, breakage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    looked(file)
    breakage(path)
    with caplog.at_level(logging.INFO, "ray.serve"):
        for _ in range(5):
            looked(file)
    assert tokens.name_of(OLD) == "ci"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    if path.is_dir():
        path.rmdir()
    written(path, NEW)
    looked(file)
    assert (tokens.name_of(OLD), tokens.name_of(NEW) is None) == (None, False)


def test_the_log_tells_a_change_once_and_no_token(
    file: TokenFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve"):
        looked(file)
        path.touch()
        looked(file)
        assert caplog.records == []
        written(path, f"{NEW}\n{THIRD}\n")
        for _ in range(3):
            looked(file)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: its 2 tokens hold from now on"]


def test_at_the_start_it_must_be_good(path: Path, tokens: TokenSet) -> None:
    path.write_bytes(b"")
    with pytest.raises(InvalidConfig, match="holds no token"):
        TokenFile(path, tokens).load()
