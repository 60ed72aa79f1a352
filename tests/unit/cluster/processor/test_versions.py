"""What a processor holds of versions: instances of a real class, made of their files."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from aoti_serve.cluster.processor.versions import ProcessorVersions
from aoti_serve.errors import AssetsRefused, VersionNotResident
from aoti_serve.processor.runs import Processor
from aoti_serve.processor.watch import Watch
from aoti_serve.weights.assets import AssetFiles, bundle, described_assets
from aoti_serve.weights.version import BUILT_IN, Version
from tests.processors import Marked


def marks(mark: str) -> bytes:
    return json.dumps({"scale": 1.0, "mark": mark}).encode()


class Cluster:
    """Has the files of versions, and counts how often one is read and made."""

    def __init__(self, folder: Path) -> None:
        self.configured = folder / "marks.json"
        self.configured.write_bytes(marks("configured"))
        self.files: dict[int, AssetFiles] = {}
        self.made: list[str] = []
        self.held = ProcessorVersions("m", {"marks": self.configured}, self.read, self.make)

    def version(self, number: int, content: bytes) -> Version:
        self.files[number] = {"marks.json": content}
        return Version(number=number, assets=described_assets(bundle(self.files[number])))

    async def read(self, version: Version) -> AssetFiles:
        return self.files.get(version.number, {})

    def make(self, assets: Mapping[str, str]) -> Processor:
        self.made.append(assets["marks"])
        return Processor(Marked(**assets), Watch(60.0), 10**6)

    async def swap(self, version: Version) -> None:
        await self.held.stage(version, accepted=False)
        await self.held.activate(version)

    def mark(self, number: int) -> str:
        instance = self.held.processor(number)._instance
        assert isinstance(instance, Marked)
        return str(instance._mark)


async def test_each_version_has_an_instance_of_its_own_files(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for number in (1, 2):
        await cluster.swap(cluster.version(number, marks(f"of {number}")))
    assert [cluster.mark(number) for number in (1, 2)] == ["of 1", "of 2"]
    await cluster.held.stage(cluster.version(3, marks("of 3")), accepted=False)
    assert [cluster.mark(number) for number in (2, 3)] == ["of 2", "of 3"]
    with pytest.raises(VersionNotResident):  # the one before makes room for what is staged
        cluster.held.processor(1)
    await cluster.held.abort()
    with pytest.raises(VersionNotResident):
        cluster.held.processor(3)


async def test_versions_with_the_same_files_share_an_instance(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for number in (1, 2):
        await cluster.swap(cluster.version(number, marks("same")))
    assert cluster.held.processor(1) is cluster.held.processor(2)
    assert len(cluster.made) == 1


async def test_a_rollback_reads_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    first = cluster.version(1, marks("of 1"))
    await cluster.swap(first)
    await cluster.swap(cluster.version(2, marks("of 2")))
    await cluster.swap(first)
    assert [cluster.mark(number) for number in (1, 2)] == ["of 1", "of 2"]
    assert len(cluster.made) == 2


async def test_without_files_of_its_own_a_version_has_those_of_the_configuration(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    await cluster.swap(BUILT_IN)
    assert cluster.mark(BUILT_IN.number) == "configured"
    assert cluster.made == [str(cluster.configured)]


async def test_files_that_cannot_be_opened_are_refused_in_words_and_nothing_changes(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    await cluster.swap(cluster.version(1, marks("of 1")))
    with pytest.raises(AssetsRefused, match=r"the assets of version 2 \(JSONDecodeError\)"):
        await cluster.held.stage(cluster.version(2, b"no json"), accepted=False)
    await cluster.held.abort()
    assert cluster.mark(1) == "of 1"
    assert not Path(cluster.made[-1]).exists()


async def test_files_stay_while_an_instance_may_read_them(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for number in (1, 2, 3):
        await cluster.swap(cluster.version(number, marks(f"of {number}")))
    await asyncio.sleep(0)
    assert [Path(path).exists() for path in cluster.made] == [False, True, True]


async def test_one_that_ends_gently_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    cluster = Cluster(tmp_path)
    await cluster.swap(cluster.version(1, marks("of 1")))
    cluster.held.close()
    assert not [*(tmp_path / "tmp").iterdir()]


KILLED = """
import asyncio, os, pathlib
from tests.unit.cluster.processor.test_versions import Cluster, marks

cluster = Cluster(pathlib.Path(os.environ["TMPDIR"]))
asyncio.run(cluster.swap(cluster.version(1, marks("of 1"))))
print(cluster.made[0], flush=True)
os._exit(1)  # as one ends that hangs
"""


def test_the_next_process_removes_the_files_of_one_that_has_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    left = Path(subprocess.run([sys.executable, "-c", KILLED], stdout=-1, text=True, check=False).stdout.strip())
    assert left.is_file()
    Cluster(tmp_path)
    assert not left.exists()
