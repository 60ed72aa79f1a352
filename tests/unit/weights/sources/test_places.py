"""Places that are followed, as they are: a folder, a file, an fsspec place, the hub, a registry of models."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import fsspec  # type: ignore[import-untyped]
import huggingface_hub
import pytest
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_serve.errors import SourceRefused, UnreadableWeights
from aoti_serve.weights.audit import AttemptOutcome
from aoti_serve.weights.sources.follow import Follow
from aoti_serve.weights.sources.found import Seen
from aoti_serve.weights.sources.places import defect_of, look_at
from aoti_serve.weights.sources.source import fetch_to
from tests.unit.weights.files.test_sharded import TENSORS, sharded
from tests.unit.weights.sources.hub_server import Hub, hub_server
from tests.unit.weights.store.crasher import content
from tests.unit.weights.store.elsewhere import uri_of

LIMIT = 2**20


def names(seen: Seen) -> list[str]:
    return sorted(version.name for version in seen.versions)


def fingerprint(uri: str) -> str:
    [version] = look_at(uri).versions
    return version.file.fingerprint


def brought(seen: Seen, folder: Path, roots: tuple[str, ...] = ()) -> bytes:
    """The bytes of the only version, as a swap reads them."""
    [version] = seen.versions
    assert defect_of(version, (*roots, *seen.roots), LIMIT) is None
    fetch_to(version.file.uri, (*roots, *seen.roots), folder / "out", LIMIT)
    return (folder / "out").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (9, 10):
        (tmp_path / "run" / f"step-{number}").mkdir(parents=True)
        (tmp_path / "run" / f"step-{number}" / "model.safetensors").write_bytes(content(number))
    (tmp_path / "run" / "notes.txt").write_text("notes")
    return tmp_path / "run"


@pytest.mark.parametrize("remote", [False, True])
def test_a_folder_has_a_version_in_each_of_its_folders(folder: Path, remote: bool) -> None:
    seen = look_at(uri_of(folder) if remote else str(folder))
    assert names(seen) == ["step-10", "step-9"]
    for version in seen.versions:
        assert defect_of(version, seen.roots, LIMIT) is None
        fetch_to(version.file.uri, seen.roots, folder.parent / "out", LIMIT)
        assert (folder.parent / "out").read_bytes() == content(int(version.name.removeprefix("step-")))


def test_a_file_whose_name_is_no_text_is_read_and_has_a_name_that_is(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/step-\xff.safetensors"
    Path(os.fsdecode(path)).write_bytes(content(1))
    seen = look_at(str(tmp_path))
    assert names(seen) == ["step-?"]
    begun = Follow("place", None).begun(seen.versions[0], 1)
    assert begun.model_dump_json()
    (tmp_path / "elsewhere").mkdir()
    assert brought(seen, tmp_path / "elsewhere") == content(1)


def test_a_file_may_be_a_link_to_another_beside_it(folder: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"v{number}.safetensors").write_bytes(content(number))
    link = tmp_path / "newest.safetensors"
    link.symlink_to("v1.safetensors")
    first = fingerprint(str(link))
    assert brought(look_at(str(link)), tmp_path) == content(1)
    (tmp_path / "link").symlink_to("v2.safetensors")
    (tmp_path / "link").replace(link)
    assert fingerprint(str(link)) != first
    assert brought(look_at(str(link)), tmp_path) == content(2)
    assert names(look_at(str(link))) == ["newest"]


@pytest.mark.parametrize("remote", [False, True])
def test_a_file_that_is_replaced_has_another_fingerprint_and_one_that_stays_the_same(
    tmp_path: Path, remote: bool
) -> None:
    path = tmp_path / "model.safetensors"
    uri = uri_of(path) if remote else str(path)
    path.write_bytes(content(1))
    first = fingerprint(uri)
    assert fingerprint(uri) == first
    os.utime(path, (1, 1))
    again = fingerprint(uri)
    (tmp_path / "next").write_bytes(content(2))
    os.utime(tmp_path / "next", (1, 1))
    (tmp_path / "next").replace(path)
    assert len({first, again, fingerprint(uri)}) == 3


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(content(1)[:-1], id="cut"),
        pytest.param(content(1) + b"x", id="too-long"),
        pytest.param(content(1)[:20], id="half-a-header"),
        pytest.param(b"", id="empty"),
        pytest.param(b"PK\x03\x04 a pickle, by its beginning", id="pickle"),
    ],
)
def test_a_file_that_is_not_as_long_as_its_header_says_is_not_whole(tmp_path: Path, spoilt: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(spoilt)
    seen = look_at(str(tmp_path))
    [version] = seen.versions
    assert defect_of(version, seen.roots, LIMIT)


@pytest.mark.parametrize("remote", [False, True])
def test_a_folder_of_shards_is_whole_when_all_that_the_index_names_are(tmp_path: Path, remote: bool) -> None:
    step = tmp_path / "run" / "step-9"
    step.mkdir(parents=True)
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"w": names[0], "v": names[1]}}

    def defect() -> str | None:
        seen = look_at(uri_of(tmp_path / "run") if remote else str(tmp_path / "run"))
        [version] = seen.versions
        return defect_of(version, seen.roots, LIMIT)

    written = {
        "model.safetensors.index.json": (json.dumps(index)[:-1].encode(), "is no index of shards"),
        names[0]: (content(1), "is no index of shards"),
    }
    for name, (whole, said) in written.items():
        (step / name).write_bytes(whole)
        assert said in (defect() or "")
    (step / "model.safetensors.index.json").write_text(json.dumps(index))
    assert defect() == f"shard {names[1]}, which its index names, is not there"
    (step / names[1]).write_bytes(content(2)[:-1])
    assert defect()
    (step / names[1]).write_bytes(content(2).replace(b'"w"', b'"v"'))
    assert defect() is None


def test_an_index_by_itself_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(UnreadableWeights, match="follow the folder that holds them all"):
        look_at(str(tmp_path / "model.safetensors.index.json"))


def test_what_is_refused_is_left_to_a_swap_which_says_so(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.safetensors").write_bytes(b"secret")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").symlink_to("../elsewhere.safetensors")
    seen = look_at(str(tmp_path / "run"))
    [version] = seen.versions
    assert defect_of(version, seen.roots, LIMIT) is None


@pytest.mark.parametrize("uri", ["nowhere", "memory://nowhere", "unknown://place", "models:/digits", "s3://:@/"])
def test_a_place_that_cannot_be_read_says_why(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableWeights):
        look_at(uri)


def test_an_error_shows_no_password() -> None:
    with pytest.raises(UnreadableWeights) as caught:
        look_at("unknown://user:secret@host/place")
    assert "secret" not in str(caught.value)


def test_a_place_in_memory_is_listed_and_read(tmp_path: Path) -> None:
    files, root = fsspec.filesystem("memory"), f"memory://{uuid4().hex}/run"
    files.pipe_file(f"{root}/step-1/model.safetensors", content(1))
    assert brought(look_at(root), tmp_path) == content(1)
    assert names(look_at(root)) == ["step-1"]
    before = fingerprint(root)
    files.pipe_file(f"{root}/step-1/model.safetensors", content(2))
    assert fingerprint(root) != before
    files.pipe_file(f"{root}/step-1/_SUCCESS", b"")
    files.pipe_file(f"{root}/step-2/model.safetensors", content(3))
    assert names(look_at(root)) == ["step-1"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """As with HF_ENDPOINT, which the package reads when it is imported."""
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + template.removeprefix("https://huggingface.co")
        )
        huggingface_hub.HfFileSystem.clear_instance_cache()
        yield server
        huggingface_hub.HfFileSystem.clear_instance_cache()


@pytest.mark.parametrize("uri", ["hf://org/repo@main/model.safetensors", "hf://org/repo@main", "hf://org/repo"])
def test_a_branch_of_a_repository_is_read_at_its_newest_commit(hub: Hub, uri: str, tmp_path: Path) -> None:
    first = hub.commit(model_dot_safetensors=content(1))
    old = look_at(uri)
    assert names(old) == [f"repo@{first[:8]}"]
    hub.commit(README_dot_md=b"more words")
    assert fingerprint(uri) == old.versions[0].file.fingerprint, "the weights are the same"
    hub.commit(model_dot_safetensors=content(2))
    assert brought(look_at(uri), tmp_path) == content(2)
    assert brought(old, tmp_path) == content(1), "what was seen stays what it was"


def test_a_repository_may_hold_many_versions(hub: Hub) -> None:
    for number in (9, 10):
        hub.commit(**{f"step-{number}__model_dot_safetensors": content(number)})
    follow, seen = Follow("p", None), look_at("hf://org/repo@main")
    follow.see(seen.versions)
    assert [version.name for version in follow.see(seen.versions)] == ["step-10", "step-9"]


def test_a_repository_that_does_not_answer_is_no_version(hub: Hub) -> None:
    hub.commit(model_dot_safetensors=content(1))
    with pytest.raises(UnreadableWeights, match="hf://org/repo@other"):
        look_at("hf://org/repo@other")
    hub.down = True
    with pytest.raises(UnreadableWeights, match="hf://org/repo@main"):
        look_at("hf://org/repo@main")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's own store, in a folder."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlflow")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"file://{tmp_path}/mlflow")
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient()
    client.create_registered_model("digits")
    for number in (1, 2):
        (tmp_path / f"run{number}").mkdir()
        (tmp_path / f"run{number}" / "model.safetensors").write_bytes(content(number))
        client.create_model_version("digits", str(tmp_path / f"run{number}"))
    client.set_registered_model_alias("digits", "champion", "1")
    return client


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of MLflow, about its own store
def test_an_alias_is_followed_wherever_it_goes(registry: Any, tmp_path: Path) -> None:
    roots, prints = (str(tmp_path),), []
    for number in ("1", "2", "1"):
        registry.set_registered_model_alias("digits", "champion", number)
        seen = look_at("models:/digits@champion", roots)
        assert (names(seen), seen.roots) == ([f"digits-{number}"], ()), "where it leads, weights_roots must allow"
        assert brought(seen, tmp_path, roots) == content(int(number))
        prints.append((seen.versions[0].file.path, seen.versions[0].file.fingerprint))
    assert prints[0] == prints[2] != prints[1]
    assert prints[0][0] == prints[1][0] == ""
    assert names(look_at("models:/digits/2", roots)) == ["digits-2"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_registered_version_may_be_in_shards(registry: Any, tmp_path: Path) -> None:
    index = sharded(tmp_path / "run3", TENSORS, {"a": "x.safetensors", "b": "y.safetensors", "c": "y.safetensors"})
    registry.create_model_version("digits", str(tmp_path / "run3"))
    roots, (version,) = (str(tmp_path),), look_at("models:/digits/3", (str(tmp_path),)).versions
    assert (version.name, version.file.path, version.file.uri) == ("digits-3", "", str(index))
    assert defect_of(version, roots, 10**6) is None
    (tmp_path / "run3" / "y.safetensors").write_bytes(content(1)[:-1])
    (changed,) = look_at("models:/digits/3", roots).versions
    assert changed.file.fingerprint != version.file.fingerprint
    assert defect_of(changed, roots, 10**6) is not None
    (tmp_path / "run3" / "x.safetensors").unlink()
    (short,) = look_at("models:/digits/3", roots).versions
    assert "shard x.safetensors, which its index names, is not there" in (defect_of(short, roots, 10**6) or "")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_the_registry_does_not_have_or_cannot_give_is_told(registry: Any, tmp_path: Path) -> None:
    for uri in ("models:/digits@nobody", "models:/digits/7", "models:/nothing/1"):
        with pytest.raises(UnreadableWeights, match=uri):
            look_at(uri)
    (tmp_path / "run2" / "model.safetensors").unlink()
    with pytest.raises(UnreadableWeights, match="version 2 must hold one file of safetensors, or shards and one "):
        look_at("models:/digits/2", (str(tmp_path),))
    registry.create_model_version("digits", "mlflow-artifacts:/1/run/artifacts/model")
    with pytest.raises(UnreadableWeights, match="behind the tracking server"):
        look_at("models:/digits/3")


class Elsewhere(BaseHTTPRequestHandler):
    """A server that nobody allows; it counts who asks."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET


@pytest.fixture
def elsewhere() -> Iterator[str]:
    Elsewhere.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/latest/meta-data"
        server.shutdown()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_where_a_registry_leads_is_not_even_asked_unless_it_is_allowed(
    registry: Any, elsewhere: str, tmp_path: Path
) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.safetensors").write_bytes(content(1))
    (tmp_path / "private" / "b.safetensors").write_bytes(content(2))
    for number, source in enumerate((f"simplecache::{elsewhere}", str(tmp_path / "private"), "memory://place"), 3):
        registry.create_model_version("digits", source)
        with pytest.raises(SourceRefused):  # and no word of what is there
            look_at(f"models:/digits/{number}", (str(tmp_path / "run1"),))
    assert not Elsewhere.asked


STEPS = st.lists(st.sampled_from(["poll", "append", "rewrite", "rename", "poll"]), max_size=40)


@settings(deadline=None)
@given(steps=STEPS, during=st.lists(st.sampled_from(["", "append", "rewrite", "rename"]), max_size=40))
def test_however_writes_and_polls_alternate_no_half_written_file_is_taken(steps: list[str], during: list[str]) -> None:
    """A writer renames files into place, or appends to them in place, and pauses as long as it likes."""
    with Writer() as writer:
        taken, follow, writes = list[bytes | None](), Follow("p", None), iter(during)
        for step in steps:
            if step == "poll":
                taken.append(writer.poll(follow, next(writes, "")))
            else:
                writer.do(step)
        writer.do("finish")
        taken += [writer.poll(follow, "") for _ in range(2)]
        copies = [copy for copy in taken if copy is not None]
        assert [copy for copy in copies if copy not in writer.whole] == []
        assert copies[-1] == writer.path.read_bytes(), "in the end it has the last one"


class Writer:
    """Writes one file again and again. Its clock counts writes: a real one would stand still between two of them."""

    def __init__(self) -> None:
        self.root = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp") / f"follow-{uuid4().hex}"
        self.path = self.root / "model.safetensors"
        self.whole: list[bytes] = []
        self.ahead = b""
        self.clock = 0

    def __enter__(self) -> Writer:
        self.root.mkdir()
        self.do("rename")
        return self

    def __exit__(self, *_: object) -> None:
        for path in self.root.iterdir():
            path.unlink()
        self.root.rmdir()

    def do(self, step: str) -> None:
        match step:
            case "rename":
                self.new()
                (self.root / "next").write_bytes(self.ahead)
                (self.root / "next").replace(self.path)
                self.ahead = b""
            case "rewrite":
                self.new()
                self.path.write_bytes(b"")
            case "append":
                self.write(30)
            case "finish":
                self.write(len(self.ahead))
        self.clock += 1
        if step:
            os.utime(self.path, (self.clock, self.clock))

    def new(self) -> None:
        self.ahead = content(len(self.whole) % 256)
        self.whole.append(self.ahead)

    def write(self, count: int) -> None:
        with self.path.open("ab") as file:
            file.write(self.ahead[:count])
        self.ahead = self.ahead[count:]

    def poll(self, follow: Follow, meanwhile: str) -> bytes | None:
        """Look, copy in two halves with a write between them, and look again: as the coordinator does."""
        seen = look_at(str(self.root))
        for version in follow.see(seen.versions):
            if defect := defect_of(version, seen.roots, LIMIT):
                assert defect
                follow.note_broken(version)
                continue
            with self.path.open("rb", buffering=0) as file:
                half = file.read(40)
                if meanwhile:
                    self.do(meanwhile)
                copy = half + file.read()
            if version.is_in(look_at(str(self.root)).versions):
                follow.ended(version, AttemptOutcome.COMMITTED)
                return copy
        return None
