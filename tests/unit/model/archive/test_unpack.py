"""Unpacking archives that are built by hand: what is refused, and that it happens once, whatever else does."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_serve.errors import UnreadablePackage
from aoti_serve.model.archive import reading, unpack

ROOT = "demo/"
MODEL = ROOT + "data/aotinductor/model/"
METADATA = MODEL + "abc.wrapper_metadata.json"
LIBRARY = MODEL + "abc.wrapper.so"
MEMBERS = {METADATA: b"{}", LIBRARY: b"\x7fELF code", ROOT + "extra/aoti_serve/notes.txt": b"hello"}
MONTHS = 90 * 24 * 3600


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "aoti-serve" / "packages"


def written(path: Path, files: dict[str, bytes] = MEMBERS, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def with_member(path: Path, name: str = ROOT + "odd", content: bytes = b"target", **facts: Any) -> Path:
    """A package with one more member, whose entry in the directory then says what `facts` say."""
    written(path)
    with zipfile.ZipFile(path, "a") as file:
        info = zipfile.ZipInfo("placeholder")
        info.filename = info.orig_filename = name
        info.external_attr = facts.pop("external_attr", 0)
        file.writestr(info, content)
        for fact, value in facts.items():
            setattr(file.filelist[-1], fact, value)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def extracted(path: Path) -> Path:
    return unpack.extract(path, digest(path))


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != unpack._STAMP
    }


def test_an_archive_without_a_top_folder_is_unpacked_as_well(tmp_path: Path) -> None:
    bare = {name.removeprefix(ROOT): value for name, value in MEMBERS.items()}
    assert content(extracted(written(tmp_path / "model.pt2", bare))) == bare


@pytest.mark.parametrize("files", [{}, {"readme.txt": b"hello"}])
def test_what_is_no_package_is_not_unpacked(tmp_path: Path, cache: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(UnreadablePackage, match=r"model\.pt2.*no compiled model"):
        extracted(written(tmp_path / "model.pt2", files))
    assert list(cache.iterdir()) == []


@settings(max_examples=150)
@given(data=st.data())
def test_no_damage_raises_anything_but_unreadable_package(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder, "model.pt2"), compression=zipfile.ZIP_DEFLATED)
        bytes_ = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes_)
        with suppress(UnreadablePackage):
            extracted(path)


def test_it_lands_in_the_users_cache_under_its_digest(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path / "model.pt2")
    folder = extracted(path)
    assert folder == cache / digest(path) / "demo"
    assert content(cache / digest(path)) == MEMBERS
    assert [entry.name for entry in cache.iterdir()] == [digest(path)]


def test_without_xdg_it_lands_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert extracted(written(tmp_path / "model.pt2")).is_relative_to(tmp_path / ".cache/aoti-serve/packages")


def test_it_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "model.pt2")
    folder = extracted(path)
    monkeypatch.setattr(unpack, "_unpack", lambda *_: pytest.fail("unpacked a second time"))
    assert extracted(path) == folder


def test_a_file_that_has_changed_since_it_was_hashed_is_refused(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path / "model.pt2")
    with pytest.raises(UnreadablePackage, match="has changed meanwhile"):
        unpack.extract(path, "0" * 64)
    assert list(cache.iterdir()) == []


def emptied(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.mkdir()


def linked(entry: Path) -> Path:
    link = entry / "link"
    link.symlink_to("x" * 9)
    return link


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda entry: (entry / LIBRARY).unlink(), id="removed"),
        pytest.param(lambda entry: (entry / LIBRARY).write_bytes(b"\x7fELF"), id="cut-off"),
        pytest.param(lambda entry: (entry / MODEL / "evil.so").touch(), id="added"),
        pytest.param(lambda entry: (entry / unpack._STAMP).unlink(), id="no-stamp"),
        pytest.param(lambda entry: (entry / unpack._STAMP).write_text("{"), id="bad-stamp"),
        pytest.param(emptied, id="emptied"),
        pytest.param(lambda entry: os.replace(linked(entry), entry / LIBRARY), id="a-link"),
    ],
)
def test_a_damaged_copy_is_made_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = written(tmp_path / "model.pt2")
    entry = extracted(path).parent
    damage(entry)
    extracted(path)
    assert content(entry) == MEMBERS
    assert not (entry / LIBRARY).is_symlink()


@pytest.mark.parametrize(
    "name", ["../out", "demo/../../out", "/absolute", "C:/drive", "c:x", "demo\\..\\x", "demo//x", "./demo/x"]
)
def test_a_name_that_points_elsewhere_is_refused(tmp_path: Path, cache: Path, name: str) -> None:
    path = with_member(tmp_path / "model.pt2", name)
    assert reading.names_in_archive(path) == ("model",)
    with pytest.raises(UnreadablePackage, match="points out of the archive"):
        extracted(path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] in (
        [path, cache.with_suffix(".lock")],
        [cache.with_suffix(".lock"), path],
    )


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_a_link_or_a_device_is_refused(tmp_path: Path, kind: int) -> None:
    path = with_member(tmp_path / "model.pt2", external_attr=(kind | 0o777) << 16)
    with pytest.raises(UnreadablePackage, match="'demo/odd' is a link or a device"):
        extracted(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = with_member(tmp_path / "model.pt2", LIBRARY, b"\x7fELF other")
    for attempt in (reading.names_in_archive, extracted):
        with pytest.raises(UnreadablePackage, match="two of its members have one name"):
            attempt(path)


def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UnreadablePackage, match="cannot be unpacked into"):
        extracted(with_member(tmp_path / "model.pt2", LIBRARY + "/inside"))
    assert list(cache.iterdir()) == []


def test_the_stamps_own_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePackage, match="a name of our own"):
        extracted(with_member(tmp_path / "model.pt2", unpack._STAMP))


def test_a_compression_that_torch_does_not_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2", compression=zipfile.ZIP_LZMA)
    with pytest.raises(UnreadablePackage, match="compressed in a way"):
        extracted(path)


def test_a_bomb_is_refused(tmp_path: Path, cache: Path) -> None:
    zeros = {ROOT + str(part): bytes(2**25 + 1) for part in range(2)}
    path = written(tmp_path / "model.pt2", MEMBERS | zeros, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnreadablePackage, match=r"would grow from 0\.1 MiB to 64\.0 MiB, more than 200 times"):
        extracted(path)
    assert list(cache.iterdir()) == []


def test_a_bomb_whose_directory_lies_about_its_compressed_size_is_refused(tmp_path: Path) -> None:
    path = with_member(tmp_path / "model.pt2", file_size=2**40, compress_size=2**40)
    with pytest.raises(UnreadablePackage, match="more than 200 times"):
        extracted(path)


@pytest.mark.parametrize("size", [0, 3, 7, 1000])
def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path, cache: Path, size: int) -> None:
    path = with_member(tmp_path / "model.pt2", file_size=size)
    with pytest.raises(UnreadablePackage):
        extracted(path)
    assert list(cache.iterdir()) == []


def test_little_that_compresses_well_is_no_bomb(tmp_path: Path) -> None:
    zeros = {ROOT + "zeros": bytes(2**23)}
    path = written(tmp_path / "model.pt2", MEMBERS | zeros, zipfile.ZIP_DEFLATED)
    assert content(extracted(path).parent) == MEMBERS | zeros


def test_more_members_than_anyone_needs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST_MEMBERS", 2)
    with pytest.raises(UnreadablePackage, match="3 members, the limit is 2"):
        extracted(written(tmp_path / "model.pt2"))


def test_more_than_the_disk_holds_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(free=2**20))
    path = written(tmp_path / "model.pt2", MEMBERS | {ROOT + "big": os.urandom(2**21)})
    with pytest.raises(UnreadablePackage, match=rf"needs 2\.0 MiB in {cache}, 1\.0 MiB are free \(XDG_CACHE_HOME"):
        extracted(path)


def test_a_disk_that_fills_up_on_the_way_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(unpack, "_write", full)
    with pytest.raises(UnreadablePackage, match=rf"cannot be unpacked into {cache}: .*{os.strerror(28)}"):
        extracted(written(tmp_path / "model.pt2"))
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UnreadablePackage, match=r"cannot be unpacked into .*XDG_CACHE_HOME"):
        extracted(path)


def test_damaged_content_is_refused(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path / "model.pt2")
    path.write_bytes(path.read_bytes().replace(b"\x7fELF code", b"\x7fELF c0de"))
    with pytest.raises(UnreadablePackage, match="damaged"):
        extracted(path)
    assert list(cache.iterdir()) == []


class _Usage(NamedTuple):
    free: int


def test_eight_that_start_at_once_unpack_once(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path / "model.pt2", MEMBERS | {ROOT + str(n): bytes(5000) for n in range(200)})
    program = """
        once = unpack._unpack
        def counted(*arguments):
            print("unpacks", flush=True)
            return once(*arguments)
        unpack._unpack = counted
        print("ready", flush=True)
        sys.stdin.readline()
        print(unpack.extract(path, digest), flush=True)
    """
    workers = [started(program, path) for _ in range(8)]
    for worker in workers:
        assert line(worker) == "ready"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert sorted(map(len, told)) == [1] * 7 + [2]
    assert {words[-1] for words in told} == {str(cache / digest(path) / "demo")}
    assert [entry.name for entry in cache.iterdir()] == [digest(path)]


def test_threads_of_one_process_that_start_at_once_unpack_once(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path / "model.pt2", MEMBERS | {ROOT + str(n): bytes(2000) for n in range(20)})
    together, found = threading.Barrier(6), list[Path]()

    def start() -> None:
        together.wait(60)
        found.append(extracted(path))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / digest(path) / "demo"] * 6
    assert len(content(cache / digest(path))) == 23
    assert [entry.name for entry in cache.iterdir()] == [digest(path)]


def test_what_a_killed_one_left_half_done_is_cleaned_up(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path / "model.pt2")
    program = """
        write, count = unpack._write, iter(range(9))
        def stuck(*arguments):
            if next(count) == 1:
                print("half", flush=True)
                sys.stdin.readline()
            return write(*arguments)
        unpack._write = stuck
        unpack.extract(path, digest)
    """
    with running(program, path) as worker:
        assert line(worker) == "half"
        worker.send_signal(signal.SIGKILL)
        worker.wait(60)
    assert [entry.name.startswith(".unpack-") for entry in cache.iterdir()] == [True]
    assert content(extracted(path).parent) == MEMBERS
    assert [entry.name for entry in cache.iterdir()] == [digest(path)]


def test_what_nobody_used_for_long_is_removed_unless_somebody_still_has_it_open(tmp_path: Path, cache: Path) -> None:
    held = written(tmp_path / "held.pt2", MEMBERS | {ROOT + "x": b"held"})
    old = written(tmp_path / "old.pt2", MEMBERS | {ROOT + "x": b"old"})
    keep = "print(unpack.extract(path, digest), flush=True); sys.stdin.readline()"
    with running(keep, held) as worker, running(keep, old) as gone:
        assert all(map(line, (worker, gone)))
        gone.communicate("end\n", timeout=60)
        age([cache / digest(held), cache / digest(old)])
        extracted(written(tmp_path / "new.pt2"))
        assert {entry.name for entry in cache.iterdir()} == {digest(held), digest(tmp_path / "new.pt2")}


def test_what_was_used_lately_is_kept(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path / "model.pt2", MEMBERS | {ROOT + "x": b"used"})
    program = "print(unpack.extract(path, digest), flush=True)"
    for then in (age, list):
        with running(program, path) as worker:
            worker.communicate(timeout=60)
        then([cache / digest(path)])
    extracted(written(tmp_path / "new.pt2"))
    assert (cache / digest(path)).exists()


def age(entries: list[Path]) -> None:
    for entry in entries:
        before = entry.stat().st_mtime - MONTHS
        os.utime(entry, (before, before))


def started(program: str, path: Path) -> subprocess.Popen[str]:
    head = "import sys; from pathlib import Path; from aoti_serve.model.archive import unpack\n"
    head += f"path, digest = Path({str(path)!r}), {digest(path)!r}\n"
    command = [sys.executable, "-c", head + textwrap.dedent(program)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def running(program: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    with started(program, path) as worker:
        yield worker
        if worker.poll() is None:
            worker.kill()


def line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


@pytest.mark.parametrize("name", ["aoti-serve", "aoti-serve/packages"])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_cache_that_others_can_write_to_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    """They could have put code there, under the digest of a package that is to be loaded."""
    folder = tmp_path / "cache" / name
    folder.mkdir(parents=True)
    folder.chmod(mode)
    with pytest.raises(UnreadablePackage, match=f"{folder} is not a private folder of this user; remove it"):
        extracted(written(tmp_path / "model.pt2"))


@pytest.mark.parametrize("name", ["aoti-serve", "aoti-serve/packages"])
def test_a_cache_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "cache" / name
    elsewhere.mkdir(mode=0o700)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(elsewhere)
    with pytest.raises(UnreadablePackage, match="not a private folder"):
        extracted(written(tmp_path / "model.pt2"))
    assert not any(elsewhere.iterdir())


def test_the_cache_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UnreadablePackage, match="not a private folder"):
        extracted(written(tmp_path / "model.pt2"))


def test_the_cache_is_private_from_the_first_moment_on_and_made_so_if_others_could_read_it(
    tmp_path: Path, cache: Path
) -> None:
    path = written(tmp_path / "model.pt2")
    for _ in range(2):
        extracted(path)
        for folder in (cache.parent, cache):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            folder.chmod(0o755)


def test_a_changed_file_of_the_same_size_is_found_where_the_package_is_pinned(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2")
    library = extracted(path) / LIBRARY.removeprefix(ROOT)
    library.write_bytes(b"\x7fELF evil")
    unpack.extract(path, digest(path))
    assert library.read_bytes() == b"\x7fELF evil"  # it costs as much as reading the package
    unpack.extract(path, digest(path), verify=True)
    assert library.read_bytes() == MEMBERS[LIBRARY]
