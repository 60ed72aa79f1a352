"""How much memory is left: by the machine's word and by those of the control groups, in both versions."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from aoti_serve.errors import NotEnoughMemory
from aoti_serve.model.device import CHUNK
from aoti_serve.model.device.cpu import HostBlock, available_memory, check_memory

MiB = 2**20


def group(folder: Path, version: int, limit: str, used: int, cache: int = 0) -> None:
    prefix, names = ("total_", ("limit_in_bytes", "usage_in_bytes")) if version == 1 else ("", ("max", "current"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"memory.{names[0]}").write_text(f"{limit}\n")
    (folder / f"memory.{names[1]}").write_text(f"{used}\n")
    stat = f"anon {used}\n{prefix}inactive_file {cache}\n{prefix}active_file {cache}\nshmem 7\n"
    (folder / "memory.stat").write_text(stat)


def member(root: Path, lines: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)


def test_without_groups_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert 0 < available_memory(tmp_path) <= psutil.virtual_memory().total


def test_here_it_is_no_more_than_the_machine_has() -> None:
    assert 0 < available_memory() <= psutil.virtual_memory().total


def test_a_limit_counts_and_what_the_kernel_can_drop_does_not(tmp_path: Path) -> None:
    member(tmp_path, "0::/pod/server\n")
    group(tmp_path / "sys/fs/cgroup/pod/server", 2, str(100 * MiB), 70 * MiB, cache=10 * MiB)
    assert available_memory(tmp_path) == 50 * MiB


def test_the_tightest_group_on_the_way_counts(tmp_path: Path) -> None:
    member(tmp_path, "0::/pod/server\n")
    group(tmp_path / "sys/fs/cgroup/pod", 2, str(80 * MiB), 60 * MiB)
    group(tmp_path / "sys/fs/cgroup/pod/server", 2, "max", 50 * MiB)
    assert available_memory(tmp_path) == 20 * MiB


def test_version_1_is_understood(tmp_path: Path) -> None:
    member(tmp_path, "12:cpu,cpuacct:/\n4:memory:/pod\n0::/\n")
    group(tmp_path / "sys/fs/cgroup/memory/pod", 1, str(100 * MiB), 90 * MiB, cache=MiB)
    group(tmp_path / "sys/fs/cgroup/memory", 1, "9223372036854771712", 0)
    assert available_memory(tmp_path) == 12 * MiB


def test_a_container_that_sees_its_own_group_as_the_root_is_held_to_it(tmp_path: Path) -> None:
    member(tmp_path, "4:memory:/docker/0123\n")
    group(tmp_path / "sys/fs/cgroup/memory", 1, str(100 * MiB), 90 * MiB)
    assert available_memory(tmp_path) == 10 * MiB


def test_a_group_beyond_its_limit_has_nothing_left(tmp_path: Path) -> None:
    member(tmp_path, "0::/\n")
    group(tmp_path / "sys/fs/cgroup", 2, str(MiB), 2 * MiB)
    assert available_memory(tmp_path) == 0


@pytest.mark.parametrize("content", ["", "nonsense\n", "0::/gone\n", "4:memory:\n"])
def test_what_is_no_group_sets_no_limit(tmp_path: Path, content: str) -> None:
    member(tmp_path, content)
    assert available_memory(tmp_path) > 0


@pytest.mark.parametrize(("needed", "available", "fits"), [(100, 120, True), (100, 119, False), (0, 0, True)])
def test_a_fifth_is_spared(needed: int, available: int, fits: bool) -> None:
    if fits:
        check_memory("the host", needed, available)
    else:
        with pytest.raises(NotEnoughMemory, match=r"the host.* 100 bytes more, and 20 to spare; 119 are"):
            check_memory("the host", needed, available)


def test_what_is_spared_does_not_grow_for_ever() -> None:
    check_memory("the host", 2**40, 2**40 + 10 * CHUNK)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is available at each question, the last answer for ever."""
    answers: list[int] = []
    monkeypatch.setattr(
        "aoti_serve.model.device.cpu.available_memory", lambda: answers.pop(0) if len(answers) > 1 else answers[0]
    )
    return answers


def test_a_block_that_does_not_fit_takes_nothing(left: list[int]) -> None:
    block = HostBlock(2 * CHUNK)
    left.append(CHUNK)
    with pytest.raises(NotEnoughMemory):
        block.check()
    assert block.held == 0


def test_a_block_is_taken_in_steps_since_others_take_memory_at_the_same_time(left: list[int]) -> None:
    block = HostBlock(3 * CHUNK + 1)
    left[:] = [4 * CHUNK, 3 * CHUNK, CHUNK]
    with pytest.raises(NotEnoughMemory):
        block.hold()
    assert block.held == 2 * CHUNK
    block.free()
    left[:] = [10 * CHUNK]
    block.hold()
    assert block.held == 3 * CHUNK + 1
    left[:] = [0]
    block.check()  # it is there already
    with pytest.raises(NotEnoughMemory):
        block.check(beside=1)


def test_a_block_that_is_held_is_the_processs_own(left: list[int]) -> None:
    """Pages that are only mapped would not be missed until they are written, when it is too late for an error."""
    left[:] = [2**40]
    block = HostBlock(CHUNK)
    before = psutil.Process().memory_info().rss
    block.hold()
    assert psutil.Process().memory_info().rss - before > 0.9 * CHUNK
