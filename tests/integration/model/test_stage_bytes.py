"""Staging from a file's bytes as they arrive: the same as from tensors, and nothing else when it fails."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from aoti_serve.errors import (
    ConstantIsBaked,
    DigestMismatch,
    InvalidWeights,
    MissingTensor,
    NothingStaged,
    NothingToRollBack,
    RuntimeFailed,
    TiedTensorsDiffer,
    UnfitTensor,
    UnknownTensor,
    UnreadableWeights,
    VersionTaken,
    WrongTensorDtype,
    WrongTensorShape,
)
from aoti_serve.model import export
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import read_index
from tests.integration import foreign
from tests.integration.architectures import ARCHITECTURES, EXOTIC, name_of, values
from tests.integration.models import small_layers_packed

Weights = dict[str, torch.Tensor]
Pieces = Iterator[NDArray[np.uint8]]
ROWS, WORDS, WIDTH = 4, 11, 16
WIDE, LAYERS = 2560, 8
PEAK = """
import sys
from pathlib import Path
import numpy as np
from aoti_serve.model.container import Container
from aoti_serve.weights.files.index import read_index

def resident(what):
    line = next(line for line in open("/proc/self/status") if line.startswith(what))
    return int(line.split()[1]) * 1024

def pieces(path):
    with open(path, "rb") as file:
        while len(piece := np.frombuffer(file.read(16 * 2**20), np.uint8)):
            held = [piece]
            del piece
            yield held.pop()

package = Path(sys.argv[1])
weights = package.with_suffix(".safetensors")
with Container(package) as container:
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    container.stage_bytes(read_index(weights), pieces(weights))
    print((resident("VmHWM") - before) / container.nbytes)
"""


class Everything(nn.Module):
    """Tied, carried, unused, baked, packed; transposed, channels_last, empty; bools; what numpy has no dtype for."""

    offset: torch.Tensor
    image: torch.Tensor
    flags: torch.Tensor
    none: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.last = nn.Linear(WIDTH, WORDS, bias=False)
        self.last.weight = self.table.weight
        self.packed = nn.Linear(WIDTH, WIDTH)
        self.turned = nn.Parameter(torch.randn(WIDTH, 2 * WIDTH).t()[:WIDTH].t().contiguous().t())
        self.gain = nn.Parameter(torch.randn(4))  # small enough for the compiler to fix
        self.unread = nn.Parameter(torch.randn(3))
        self.register_buffer("image", torch.randn(1, 2, 4, 2).to(memory_format=torch.channels_last))
        self.register_buffer("flags", torch.rand(WIDTH) > 0.5)
        self.register_buffer("none", torch.randn(0, WIDTH))
        self.register_buffer("offset", torch.randn(WIDTH), persistent=False)
        for dtype in (*EXOTIC, torch.bfloat16):
            self.register_buffer(f"kept_{name_of(dtype)}", values(dtype, WIDTH))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = torch.where(self.flags, self.table(ids).mean(1) @ self.turned, self.image.reshape(-1)) + self.offset
        for dtype in (*EXOTIC, torch.bfloat16):
            hidden = hidden + self.get_buffer(f"kept_{name_of(dtype)}").float().clamp(-9, 9)
        hidden = torch.cat([hidden, self.none]) * self.gain.repeat(4)
        logits: torch.Tensor = self.last(hidden + torch.sin(self.packed(hidden)))
        return logits


class Subject(NamedTuple):
    """A package, the weights that it was made with, and a question that every version answers differently."""

    package: Package
    weights: Weights
    question: Any

    def changed(self, seed: int) -> Weights:
        """Other weights of the same kind; what is baked stays, and what is tied stays equal."""
        torch.manual_seed(seed)
        fixed = {spec.name for spec in self.package.signature.baked}
        found = {name: old if name in fixed else values(old.dtype, *old.shape) for name, old in self.weights.items()}
        return found | {name: found[own] for name, own in self.package.signature.tied.items() if name in found}


class File(NamedTuple):
    """A safetensors file, as somebody sends it."""

    spans: dict[str, Span]
    content: bytes

    def cut(self, *at: int) -> Pieces:
        """In pieces of read-only memory, which is written to again as soon as the next one is asked for."""
        places = [0, *sorted(min(place, len(self.content)) for place in at), len(self.content)]
        for begin, end in pairwise(places):
            memory = np.frombuffer(self.content[begin:end], np.uint8).copy()
            piece = memory[:]
            piece.flags.writeable = False
            yield piece
            memory[:] = 0xAA

    def every(self, size: int) -> Pieces:
        return self.cut(*range(size, len(self.content), size))


Filed = Callable[[Weights], File]


@pytest.fixture
def filed(tmp_path: Path) -> Filed:
    def write(weights: Weights) -> File:
        path = tmp_path / "weights.safetensors"
        save_file({name: value.detach().clone().contiguous() for name, value in weights.items()}, path)
        return File(read_index(path), path.read_bytes())

    return write


def made(module: nn.Module, example: Any, path: Path, shapes: Any = None, **how: Any) -> Subject:
    with small_layers_packed():
        package = export_package(module, example, path, dynamic_shapes=shapes, **how)
    return Subject(package, module.state_dict(), example if isinstance(example, tuple) else example.values())


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    torch.manual_seed(0)
    ids = torch.randint(0, WORDS, (ROWS, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(export._OPTIONS, "always_keep_tensor_constants", False)
        path = tmp_path_factory.mktemp("everything") / "everything.pt2"
        subject = made(Everything().eval(), (ids,), path, allow_baked=True)
    assert [recipe.source for recipe in subject.package.recipes] == ["packed.weight"]
    signature = subject.package.signature
    apart = [
        spec.name for spec in signature.constants if not torch.empty_strided(spec.shape, spec.stride).is_contiguous()
    ]
    assert sorted(apart) == ["image", "turned"]
    assert {*signature.tied, *signature.tied.values()} == {"table.weight", "last.weight"}
    assert [spec.name for spec in signature.baked] == ["gain"]
    assert {*signature.unused} >= {"unread"}
    assert [spec.name for spec in signature.constants if spec.carried] == ["offset"]
    return subject


@pytest.fixture(scope="module", params=["everything", "dtypes", "constants"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    if request.param == "everything":
        found: Subject = request.getfixturevalue("everything")
        return found
    torch.manual_seed(0)
    of = ARCHITECTURES[request.param]
    return made(of.make().eval(), of.example, tmp_path_factory.mktemp(request.param) / "of.pt2", of.shapes)


@pytest.fixture
def container(everything: Subject) -> Iterator[Container]:
    """Version 1 answers, and version 0 is resident behind it."""
    with Container(everything.package, num_runners=2) as opened:
        for number in range(2):
            opened.stage(everything.changed(number), version=number)
            opened.commit()
        yield opened


def numbers(container: Container) -> tuple[int | None, int | None, int | None]:
    return container.version, container.previous, container.staged


def memory(container: Container) -> dict[str, bytes]:
    """What the inactive buffer holds, constant by constant, in bytes."""
    return {name: bytes(place.tolist()) for name, place in container._versions.inactive._memory.items()}


def answer(container: Container, subject: Subject) -> list[bytes]:
    flat = [*subject.question]
    outputs = container(*flat)
    leaves = torch.utils._pytree.tree_leaves(outputs)
    return [bytes(leaf.contiguous().flatten().view(torch.uint8).tolist()) for leaf in leaves]


def test_it_is_as_if_it_had_been_staged_from_tensors(subject: Subject, filed: Filed) -> None:
    with Container(subject.package) as container:
        for number, size in enumerate((1 << 30, 4096, 61, 7, 1)):
            weights = subject.changed(number)
            container.stage(weights)
            want = memory(container)
            container.release()
            file = filed(weights)
            container.stage_bytes(file.spans, file.every(size))
            assert memory(container) == want
            container.commit()
            found = answer(container, subject)
            container.stage(weights)
            container.commit()
            assert answer(container, subject) == found
            container.rollback()
            assert answer(container, subject) == found
    assert container.version == 5 * 3 - 1


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 4000), max_size=30), st.integers(2, 99))
def test_wherever_the_file_is_cut(
    everything: Subject, container: Container, filed: Filed, at: list[int], seed: int
) -> None:
    file = filed(everything.changed(seed))
    container.stage(everything.changed(seed))
    want = memory(container)
    container.stage_bytes(file.spans, file.cut(*at))
    assert memory(container) == want


def test_numbers_are_given_as_for_tensors(everything: Subject, container: Container, filed: Filed) -> None:
    file = filed(everything.changed(3))
    with pytest.raises(VersionTaken):
        container.stage_bytes(file.spans, file.every(100), version=1)
    assert container.previous == 0
    container.stage_bytes(file.spans, file.every(100), version=7)
    assert numbers(container) == (1, None, 7)
    container.stage_bytes(file.spans, file.every(100))
    container.commit()
    assert numbers(container) == (8, 1, None)


def test_a_previous_version_may_be_let_go_right_after_a_commit(
    everything: Subject, container: Container, filed: Filed
) -> None:
    file, both = filed(everything.changed(3)), container.nbytes
    container.stage_bytes(file.spans, file.every(100))
    container.commit()
    want = answer(container, everything)
    container.release()
    assert container.nbytes == both / 2
    with pytest.raises(NothingToRollBack):
        container.rollback()
    with pytest.raises(NothingStaged):
        container.commit()
    assert answer(container, everything) == want
    container.stage_bytes(file.spans, file.every(100))
    container.commit()
    assert answer(container, everything) == want


def moved(span: Span, begin: int, end: int) -> Span:
    return span._replace(begin=span.begin + begin, end=span.end + end)


LIES: dict[str, tuple[Callable[[dict[str, Span]], dict[str, Span]], type[InvalidWeights], str]] = {
    "missing": (lambda index: {name: index[name] for name in index if name != "flags"}, MissingTensor, "flags"),
    "unknown": (lambda index: index | {"stranger": index["flags"]}, UnknownTensor, "stranger"),
    "dtype": (lambda index: index | {"flags": index["flags"]._replace(dtype="uint8")}, WrongTensorDtype, "flags"),
    "shape": (lambda index: index | {"flags": index["flags"]._replace(shape=(WIDTH - 1,))}, WrongTensorShape, "flags"),
    "too few bytes": (lambda index: index | {"flags": moved(index["flags"], 0, -1)}, UnfitTensor, "flags"),
    "too many bytes": (lambda index: index | {"flags": moved(index["flags"], -1, 0)}, UnfitTensor, "flags"),
    "backwards": (lambda index: index | {"flags": moved(index["flags"], 99, 0)}, UnfitTensor, "flags"),
    "before the file": (lambda index: index | {"flags": Span("bool", (WIDTH,), -WIDTH, 0)}, UnfitTensor, "flags"),
    "an unused one's bytes": (lambda index: index | {"unread": moved(index["unread"], 0, 4)}, UnfitTensor, "unread"),
    "a baked one's bytes": (lambda index: index | {"gain": moved(index["gain"], 0, 4)}, UnfitTensor, "gain"),
    "an empty one's bytes": (lambda index: index | {"none": moved(index["none"], 0, 4)}, UnfitTensor, "none"),
    "shared by two": (lambda index: index | {"last.weight": index["table.weight"]}, UnfitTensor, "table.weight"),
    "overlapping": (
        lambda index: index | {"table.weight": moved(index["last.weight"], 4, 4)},
        UnfitTensor,
        "table.weight",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_does_not_fit_changes_nothing(
    everything: Subject, container: Container, filed: Filed, lie: str
) -> None:
    spoil, error, name = LIES[lie]
    file, before = filed(everything.changed(3)), answer(container, everything)

    def never() -> Pieces:
        pytest.fail("a byte was asked for")
        yield

    with pytest.raises(error, match=f"'{name}'"):
        container.stage_bytes(spoil(file.spans), never())
    assert (container.version, container.previous) == (1, 0)
    assert answer(container, everything) == before
    container.rollback()
    container.rollback()
    assert answer(container, everything) == before


class ConnectionLost(Exception):
    """What no one here knows of."""


def broken(pieces: Pieces, after: int, error: BaseException) -> Pieces:
    for _ in range(after):
        yield next(pieces)
    raise error


def refused(container: Container, subject: Subject, file: File, pieces: Pieces, error: type[BaseException]) -> Any:
    """The error, after a check that nothing is left of the attempt but that the previous version has gone."""
    before, once = answer(container, subject), container._versions.active.nbytes
    with pytest.raises(error) as raised:
        container.stage_bytes(file.spans, pieces)
    assert numbers(container) == (1, None, None)
    assert container.nbytes == once
    assert answer(container, subject) == before
    with pytest.raises(NothingToRollBack):
        container.rollback()
    with pytest.raises(NothingStaged):
        container.commit()
    container.stage_bytes(file.spans, file.every(100))
    container.commit()
    assert answer(container, subject) != before
    container.rollback()
    assert answer(container, subject) == before
    return raised.value


@pytest.mark.parametrize("after", [0, 1, 20, 1000])
@pytest.mark.parametrize("error", [ConnectionLost(), DigestMismatch(got="this", expected="that"), KeyboardInterrupt()])
def test_what_the_sender_raises_is_raised_and_what_answers_goes_on(
    everything: Subject, container: Container, filed: Filed, after: int, error: BaseException
) -> None:
    """At the start, in the middle, and when all bytes are there."""
    file = filed(everything.changed(3))
    after = min(after, len([*file.every(100)]))
    assert refused(container, everything, file, broken(file.every(100), after, error), type(error)) is error


@pytest.mark.parametrize("size", [1, 64, 1 << 20])
@pytest.mark.parametrize("change", [-1, -1000, 1, 1000])
def test_bytes_that_are_too_few_or_too_many_are_refused(
    everything: Subject, container: Container, filed: Filed, change: int, size: int
) -> None:
    file = filed(everything.changed(3))
    other = File(file.spans, (file.content + bytes(1000))[: len(file.content) + change])
    error = refused(container, everything, file, other.every(size), UnreadableWeights)
    assert f"of a file of {len(file.content)}" in str(error)


def test_names_of_one_constant_must_agree(everything: Subject, container: Container, filed: Filed) -> None:
    weights, good = everything.changed(3), filed(everything.changed(3))
    file = filed(weights | {"last.weight": weights["last.weight"] + 1})
    error = refused(container, everything, good, file.every(100), TiedTensorsDiffer)
    assert "last.weight" in str(error)
    answers = []
    for left_out in ("last.weight", "table.weight"):
        file = filed({name: value for name, value in weights.items() if name != left_out})
        container.stage_bytes(file.spans, file.every(100))
        container.commit()
        answers.append(answer(container, everything))
    assert answers[0] == answers[1]


def test_what_is_compiled_in_must_be_so(everything: Subject, container: Container, filed: Filed) -> None:
    good = everything.changed(3)
    file = filed(good | {"gain": good["gain"] + 1})
    with pytest.warns(UserWarning, match="'gain'") as warned:
        container.stage_bytes(file.spans, file.every(100), strict=False)
    assert warned[0].filename == __file__
    container.commit()
    without = filed({name: value for name, value in good.items() if name != "gain"})
    want = answer(container, everything)
    container.stage_bytes(without.spans, without.every(100))
    container.commit()
    assert answer(container, everything) == want
    with pytest.raises(ConstantIsBaked, match="'gain'"):
        container.stage_bytes(file.spans, file.every(100))
    assert (container.staged, container.previous) == (None, None)
    assert answer(container, everything) == want


def test_what_a_trainer_does_not_keep_may_be_sent_all_the_same(
    everything: Subject, container: Container, filed: Filed
) -> None:
    assert "offset" not in everything.weights
    weights = everything.changed(3)
    answers = []
    for sent in (weights, weights | {"offset": torch.ones(WIDTH)}, weights):
        file = filed(sent)
        container.stage_bytes(file.spans, file.every(100))
        container.commit()
        answers.append(answer(container, everything))
    assert answers[0] == answers[2] != answers[1]


def test_bools_that_are_none_are_refused_from_tensors_and_from_bytes(
    everything: Subject, container: Container, filed: Filed
) -> None:
    good = filed(everything.changed(3))
    flags = torch.tensor([0, 1] * 7 + [2, 255], dtype=torch.uint8).view(torch.bool)
    with pytest.raises(UnfitTensor, match=r"'flags'.* 255 "):
        container.stage(everything.changed(3) | {"flags": flags})
    assert container.previous == 0
    span, content = good.spans["flags"], bytearray(good.content)
    content[span.begin : span.end] = bytes(flags.view(torch.uint8).tolist())
    bad = File(good.spans, bytes(content))
    assert "'flags'" in str(refused(container, everything, good, bad.every(100), UnfitTensor))


def test_a_fold_that_fails_leaves_what_answers(tmp_path: Path, filed: Filed, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign._compile(tmp_path, "folded")
    package = Package.open(tmp_path / "folded.pt2", signature=foreign.NET)
    with Container(package) as container:
        before = container.run(foreign.inputs())["logits"]
        file = filed(foreign.weights(0.5))
        (variant,) = container._versions.runtime._variants
        native: Any = variant.runtime

        def fail(inactive: bool) -> None:
            raise RuntimeFailed(call="RunConstantFolding", detail="no memory")

        with monkeypatch.context() as patch:
            patch.setattr(native, "fold", fail)
            with pytest.raises(RuntimeFailed, match="no memory"):
                container.stage_bytes(file.spans, file.every(1000))
        assert (container.version, container.staged) == (0, None)
        assert torch.equal(container.run(foreign.inputs())["logits"], before)
        container.stage_bytes(file.spans, file.every(1000))
        container.commit()
        after = container.run(foreign.inputs())["logits"]
    torch.testing.assert_close(after, foreign.eager(foreign.weights(0.5)), rtol=1e-4, atol=1e-4)


def test_runs_meanwhile_answer_with_the_version_they_name(everything: Subject, filed: Filed) -> None:
    """4 threads on 4 runners, 60 swaps; every third file breaks off."""
    files: Sequence[File] = [filed(everything.changed(number)) for number in range(2)]
    want: dict[int, list[bytes]] = {}
    stop, wrong, seen = threading.Event(), [], set()
    with Container(everything.package, num_runners=4, num_threads=1) as container:
        for number, file in enumerate(files):
            container.stage_bytes(file.spans, file.every(1000), version=number)
            container.commit()
            want[number] = answer(container, everything)
        eager = {number: torch.frombuffer(bytearray(want[number][0]), dtype=torch.float32) for number in want}

        def ask() -> None:
            while not stop.is_set():
                version, outputs = container.infer(list(everything.question))
                seen.add(version % 2)
                if not torch.equal(outputs["output"].flatten(), eager[version % 2]):
                    wrong.append(version)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(2, 62):
            file = files[number % 2]
            if number % 3 == 0:
                with pytest.raises(ConnectionLost):
                    container.stage_bytes(file.spans, broken(file.every(200), 5, ConnectionLost()), version=number)
            container.stage_bytes(file.spans, file.every(200), version=number)
            container.commit()
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert seen == {0, 1}


def test_the_file_is_never_in_memory_beside_the_buffer(tmp_path: Path) -> None:
    layers = nn.Sequential(*(nn.Linear(WIDE, WIDE, bias=False) for _ in range(LAYERS)))
    path = tmp_path / "large.pt2"
    export_package(layers.eval(), (torch.zeros(1, WIDE),), path)
    nbytes = sum(value.nbytes for value in load_file(path.with_suffix(".safetensors")).values())
    assert nbytes == LAYERS * WIDE * WIDE * 4
    command = [sys.executable, "-W", "ignore", "-c", PEAK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.3
