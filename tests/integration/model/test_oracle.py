"""Random sequences of everything a container can do, from several threads, against plain PyTorch."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from aoti_serve.errors import (
    AotiServeError,
    ContainerClosed,
    IndexOutOfRange,
    InvalidInput,
    InvalidWeights,
    NothingStaged,
    NothingToRollBack,
    RuntimeFailed,
    WeightsMissing,
)
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.gate import Gate
from aoti_serve.model.package import Package
from tests.int8 import in_int8
from tests.integration.models import small_layers_packed

Weights = dict[str, torch.Tensor]
Question = dict[str, torch.Tensor]
Op = tuple[str, int]

STEPS = 500  # of the driver alone, in each example; what the askers do meanwhile comes on top
RACE_STEPS = 150  # of each of two stagers, in each example
ASKERS, RUNNERS = 4, 2
WORDS, WIDTH = 11, 8
TIED = {"last.weight": "table.weight"}


class Tied(nn.Module):
    """Tied weights, batch norm, a carried buffer, a scalar, and indices that a request chooses. No activation dies."""

    offset: torch.Tensor
    gain: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.first = nn.Linear(5, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.last = nn.Linear(WIDTH, WORDS)
        self.last.weight = self.table.weight
        self.register_buffer("offset", torch.randn(WORDS), persistent=False)
        self.register_buffer("gain", torch.tensor(1.5))

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        hidden = torch.sin(self.norm(self.first(x) + self.table(ids).mean(1)))
        logits: torch.Tensor = self.last(hidden) * self.gain + self.offset
        return logits


class InInt8(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return in_int8(x, self.weight, self.bias)


class Quantized(Tied):
    """The same, as a package that is made with `quantize="int8"` computes it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = InInt8(5, WIDTH)


class Subject:
    """The module that answers as the package does, that package, and the questions that everybody asks."""

    def __init__(self, module: Tied, package: Package) -> None:
        self.module = module
        self.package = package
        self.baseline = {"offset": module.offset.clone()}
        self.questions: list[Question] = [
            {"x": torch.randn(rows, 5), "ids": torch.randint(0, WORDS, (rows, 3))} for rows in (1, 2, 5)
        ]

    def fresh(self, seed: int) -> Weights:
        """Weights as a trainer's state_dict() has them, under all names."""
        rng = torch.Generator().manual_seed(seed)
        state = self.module.state_dict()
        weights = {
            name: torch.randn(value.shape, generator=rng) * 0.5 if value.is_floating_point() else value + seed
            for name, value in state.items()
        }
        weights["norm.running_var"] = weights["norm.running_var"].abs() + 0.5
        weights["last.weight"] = weights["table.weight"]
        return weights

    def eager(self, weights: Weights, question: int) -> torch.Tensor:
        with torch.no_grad():
            answer: torch.Tensor = torch.func.functional_call(
                self.module, weights, tuple(self.questions[question].values())
            )
        return answer


@pytest.fixture(scope="session", params=["packed", "int8"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    torch.manual_seed(0)
    module, quantize = Tied().eval(), request.param == "int8"
    batch = torch.export.Dim("batch", min=1, max=8)
    inputs = {"x": torch.randn(4, 5), "ids": torch.randint(0, WORDS, (4, 3))}
    path: Path = tmp_path_factory.mktemp("tied") / "tied.pt2"
    shapes = {"x": {0: batch}, "ids": {0: batch}}
    with small_layers_packed():
        package = export_package(module, inputs, path, dynamic_shapes=shapes, quantize="int8" if quantize else None)
    assert [recipe.source for recipe in package.recipes] == ["first.weight"]  # of the tied one a table is made, too
    assert {*package.signature.tied, *package.signature.tied.values()} == {"last.weight", "table.weight"}
    if quantize:
        module, made = Quantized().eval(), module
        module.load_state_dict(made.state_dict())
        module.offset = made.offset
    return Subject(module, package)


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def known(weights: Weights) -> Weights:
    """A copy, with one name for each constant and without those that nothing reads."""
    named = {TIED.get(name, name): value for name, value in weights.items() if name != "norm.num_batches_tracked"}
    return {name: value.detach().clone() for name, value in named.items()}


class Oracle:
    """What each version must answer: by eager PyTorch the first time, to the bit from then on."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.weights: dict[int, Weights] = {}
        self.numbers = itertools.count(1)
        self._first: dict[tuple[int, int], bytes] = {}
        self._lately: deque[int] = deque(maxlen=4)
        self._turn = threading.Lock()  # functional_call lends the module its weights for the length of the call

    def learn(self, version: int, weights: Weights) -> None:
        self.weights[version] = weights

    def check(self, version: int, question: int, answer: torch.Tensor) -> None:
        bits = answer.numpy().tobytes()
        if (version, question) not in self._first:
            with self._turn:
                eager = self.subject.eager(self.weights[version], question)
            torch.testing.assert_close(answer, eager, rtol=1e-4, atol=1e-4, equal_nan=True)
            self._lately.append(version)
        first = self._first.setdefault((version, question), bits)
        assert bits == first, f"version {version} answers question {question} in two ways"
        for other in list(self._lately):
            if self._first.get((other, question)) == bits:
                assert self._alike(version, other), f"versions {version} and {other} give one answer"

    def _alike(self, one: int, other: int) -> bool:
        first, second = self.weights[one], self.weights[other]
        return all(torch.equal(first[name], second[name]) for name in first) or any(
            value.isnan().any() for weights in (first, second) for value in weights.values()
        )


class Session:
    """A container, and when it changed its version: `begun` flips by the version they lead to, `ended` ones counted."""

    def __init__(self, subject: Subject) -> None:
        self.container = Container(subject.package, num_runners=RUNNERS)
        self.begun: list[int] = []
        self.ended = 0
        self.closing = False
        self.answers = threading.Event()


class Askers:
    """Threads that ask all the time, good questions and bad ones, and check each answer that they get."""

    def __init__(self, oracle: Oracle, session: Session, *, ordered: bool = True) -> None:
        self.session = session
        self.asked = 0
        self._oracle = oracle
        self._ordered = ordered
        self._stop = threading.Event()
        self.failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(ASKERS)]

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.session.answers.set()
        for thread in self._threads:
            thread.join()
        for failure in self.failures:
            raise failure

    def _ask_on(self, number: int) -> None:
        rng = random.Random(number)
        try:
            while not self._stop.is_set():
                self._ask(rng)
                self.asked += 1
        except BaseException as failure:
            self.failures.append(failure)

    def _ask(self, rng: random.Random) -> None:
        session, question = self.session, rng.randrange(len(self._oracle.subject.questions))
        ended = session.ended
        try:
            if rng.random() < 0.05:
                ask_badly(session.container, self._oracle.subject.questions[question], rng)
                return
            version, outputs = session.container.infer(self._oracle.subject.questions[question])
        except ContainerClosed:
            assert session.closing
            return
        except WeightsMissing:
            assert ended == 0
            session.answers.wait(60)
            return
        # Neither from before the question nor from after the answer.
        assert not self._ordered or version in session.begun[max(0, ended - 1) :]
        self._oracle.check(version, question, outputs["output"])


def ask_badly(container: Container, good: Question, rng: random.Random) -> None:
    name, question = rng.choice(BAD_QUESTIONS)(good)
    with pytest.raises(InvalidInput, match=name) as caught:
        container.infer(question)
    assert isinstance(caught.value, IndexOutOfRange) == (name == "'ids': an index")


def holding(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Question], tuple[str, Question]]:
    return lambda good: (f"'{name}'", good | {name: change(good[name])})


def with_index(value: int) -> Callable[[Question], tuple[str, Question]]:
    def bad(good: Question) -> tuple[str, Question]:
        ids = good["ids"].clone()
        ids[-1, -1] = value
        return "'ids': an index", good | {"ids": ids}

    return bad


def freed(tensor: torch.Tensor) -> torch.Tensor:
    copy = tensor.clone()
    copy.untyped_storage().resize_(0)
    return copy


BAD_QUESTIONS: list[Callable[[Question], tuple[str, Question]]] = [
    with_index(WORDS),
    with_index(-1),
    with_index(2**63 - 1),
    with_index(-(2**63)),
    holding("x", lambda x: x.double()),
    holding("x", lambda x: x[:, :4]),
    holding("x", lambda x: x[0]),
    holding("x", lambda x: x.repeat(9, 1)),
    holding("x", lambda x: x[:0]),
    holding("x", freed),
    holding("x", lambda x: x.to("meta")),
    holding("x", lambda x: x.to_sparse()),
    holding("ids", lambda ids: ids.repeat(2, 1)),
    holding("ids", lambda ids: ids.int()),
    lambda good: ("'ids'", {"x": good["x"]}),
    lambda good: ("'y'", good | {"y": good["x"]}),
]


def sliced(weights: Weights) -> Weights:
    """Views of one storage, at odd offsets."""
    flat = torch.cat([torch.zeros(3), *(value.reshape(-1) for value in weights.values())])
    sizes = [3, *(value.numel() for value in weights.values())]
    parts = zip(weights.items(), torch.split(flat, sizes)[1:], strict=True)
    return {name: part.view(value.shape) for (name, value), part in parts}


def spread(weights: Weights) -> Weights:
    """Every second element of something larger."""
    return {name: torch.stack([value, value + 1], -1)[..., 0] for name, value in weights.items()}


def turned(weights: Weights) -> Weights:
    return {name: value.t().contiguous().t() if value.ndim == 2 else value for name, value in weights.items()}


def parameters(weights: Weights) -> Weights:
    return {name: nn.Parameter(value) for name, value in weights.items()}


def inferred(weights: Weights) -> Weights:
    with torch.inference_mode():
        return {name: value.clone() for name, value in weights.items()}


def on_floats(layout: Callable[[Weights], Weights]) -> Callable[[Weights], Weights]:
    return lambda weights: (
        weights | layout({name: value for name, value in weights.items() if value.is_floating_point()})
    )


LAYOUTS = [dict[str, torch.Tensor], *map(on_floats, (sliced, spread, turned, parameters, inferred))]

SPOILERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "dtype": lambda value: value.double(),
    "half": lambda value: value.bfloat16(),
    "rank": lambda value: value[None],
    "shape": lambda value: torch.cat([value.reshape(-1), torch.zeros(1)]),
    "freed": freed,
    "meta": lambda value: value.to("meta"),
    "sparse": lambda value: value.to_sparse(),
    "array": lambda value: value.numpy(),
    "none": lambda value: None,
}


class Noted(Weights):
    """Weights that tell when they are read: under the container's lock, with the version that is active then."""

    def __init__(self, weights: Weights, read: Callable[[], None]) -> None:
        super().__init__(weights)
        self._read = read

    def items(self) -> Any:
        self._read()
        return super().items()


def stage(
    container: Container, oracle: Oracle, version: int, rng: random.Random, *, partial: bool, spoil: str = ""
) -> None:
    """Stage random weights in a random layout, as the oracle learns them; then ruin the caller's own tensors."""
    fresh = oracle.subject.fresh(version)
    if rng.random() < 0.5:
        fresh["offset"] = torch.randn(WORDS, generator=torch.Generator().manual_seed(version))
    if rng.random() < 0.04:
        fresh["last.bias"][rng.randrange(WORDS)] = float("nan")
    if partial:
        fresh = {name: fresh[name] for name in rng.sample(list(fresh), rng.randrange(len(fresh)))}
    elif rng.random() < 0.5:
        del fresh[rng.choice(["last.weight", "table.weight"])]
    given = rng.choice(LAYOUTS)({name: value.clone() for name, value in fresh.items()})
    if spoil:
        spoiled(given, spoil, rng)

    def learn() -> None:
        base = oracle.weights[container.version] if partial and container.version else oracle.subject.baseline
        oracle.learn(version, base | known(fresh))

    container.stage(Noted(given, learn), version=version, partial=partial)
    for value in given.values():
        value.detach().zero_() if not value.is_inference() else None


def spoiled(weights: Weights, how: str, rng: random.Random) -> None:
    """Make `weights` unfit, in place."""
    name = rng.choice(["first.bias", "table.weight", "gain", "norm.running_mean"])
    if how == "missing":
        weights.pop("first.bias", None)
    elif how == "unknown":
        weights[rng.choice(["stranger", "", "first.bias ", "_FOLDED_CONST_0"])] = torch.zeros(3)
    elif how == "untied":
        weights["table.weight"] = torch.zeros(WORDS, WIDTH)
        weights["last.weight"] = torch.ones(WORDS, WIDTH)
    else:
        value = torch.zeros(dict(Tied().state_dict())[name].shape)
        weights[name] = SPOILERS[how](value)


class Driver:
    """Does one step after the other, and knows the state that the container must be in after each."""

    def __init__(self, oracle: Oracle, session: Session, askers: Askers) -> None:
        self.oracle, self.session, self.askers = oracle, session, askers
        self.version: int | None = None
        self.previous: int | None = None
        self.staged: int | None = None
        self.resident = 0

    def step(self, kind: str, seed: int) -> None:
        rng = random.Random(seed)
        getattr(self, f"do_{kind}")(rng)
        container = self.container
        assert (container.version, container.previous, container.staged) == (self.version, self.previous, self.staged)
        buffers = (self.version is not None) + (self.previous is not None or self.staged is not None)
        if buffers == 1 and not self.resident:
            self.resident = container.nbytes
        assert container.nbytes == buffers * self.resident

    @property
    def container(self) -> Container:
        return self.session.container

    def do_run(self, rng: random.Random) -> None:
        number = rng.randrange(len(self.oracle.subject.questions))
        question = self.oracle.subject.questions[number]
        try:
            answer = rng.choice(WAYS_TO_ASK)(self.container, question)
        except WeightsMissing:
            assert self.version is None
        else:
            assert self.version is not None
            self.oracle.check(self.version, number, answer)

    def do_run_badly(self, rng: random.Random) -> None:
        try:
            ask_badly(self.container, rng.choice(self.oracle.subject.questions), rng)
        except WeightsMissing:
            assert self.version is None

    def do_stage(self, rng: random.Random) -> None:
        number = next(self.oracle.numbers)
        stage(self.container, self.oracle, number, rng, partial=False)
        self.previous, self.staged = None, number

    def do_stage_partial(self, rng: random.Random) -> None:
        number = next(self.oracle.numbers)
        try:
            stage(self.container, self.oracle, number, rng, partial=True)
        except WeightsMissing:
            assert self.version is None
        else:
            assert self.version is not None
            self.previous, self.staged = None, number

    def do_stage_bad(self, rng: random.Random) -> None:
        partial = self.version is not None and rng.random() < 0.5
        how = rng.choice([*SPOILERS, "unknown", "untied", *([] if partial else ["missing"])])
        with pytest.raises(InvalidWeights, match="'"):
            stage(self.container, self.oracle, next(self.oracle.numbers), rng, partial=partial, spoil=how)

    def do_stage_that_breaks(self, rng: random.Random) -> None:
        """The copy, or the fold after it, fails half-way."""
        buffers = self.container._versions
        part, where = rng.choice([(buffers.inactive, "fill"), (buffers, "publish")])
        real = getattr(part, where)

        def breaks(*arguments: Any) -> None:
            patched.stop()
            real(*arguments)
            raise RuntimeFailed(call=where, detail="on purpose")

        patched = patch.object(part, where, breaks)
        patched.start()
        with pytest.raises(RuntimeFailed, match="on purpose"):
            stage(self.container, self.oracle, next(self.oracle.numbers), rng, partial=False)
        self.previous = self.staged = None

    def do_commit(self, rng: random.Random) -> None:
        self._flip(self.container.commit, self.staged, NothingStaged)

    def do_rollback(self, rng: random.Random) -> None:
        self._flip(self.container.rollback, self.previous, NothingToRollBack)

    def do_abort(self, rng: random.Random) -> None:
        self.container.abort()
        self.staged = None

    def do_release(self, rng: random.Random) -> None:
        self.container.release()
        self.previous = self.staged = None

    def do_reopen(self, rng: random.Random) -> None:
        old, self.session = self.session, Session(self.oracle.subject)
        if rng.random() < 0.5:
            self.askers.session = self.session
        old.closing = True
        old.container.close()
        old.container.close()
        self.askers.session = self.session
        old.answers.set()
        self.version = self.previous = self.staged = None
        for call in (old.container.commit, old.container.rollback, old.container.release):
            with pytest.raises(ContainerClosed):
                call()
        with pytest.raises(ContainerClosed):
            stage(old.container, self.oracle, next(self.oracle.numbers), rng, partial=True)
        with pytest.raises(ContainerClosed):
            old.container.infer(self.oracle.subject.questions[0])
        assert old.container.nbytes == 0

    def _flip(self, flip: Callable[[], None], to: int | None, refusal: type[AotiServeError]) -> None:
        if to is None:
            with pytest.raises(refusal):
                flip()
            return
        self.session.begun.append(to)
        flip()
        self.session.ended += 1
        self.session.answers.set()
        self.version, self.previous, self.staged = to, self.version, None


def boxed(container: Container, question: Question) -> torch.Tensor:
    box = list(question.values())
    answer = container.boxed_run(box)["output"]
    assert not box
    return answer


def called(container: Container, question: Question) -> torch.Tensor:
    answer: torch.Tensor = container(**question)
    return answer


WAYS_TO_ASK: list[Callable[[Container, Question], torch.Tensor]] = [
    lambda container, question: container.run(question)["output"],
    lambda container, question: container.run(list(question.values()))["output"],
    lambda container, question: container.run({"INPUT__0": question["x"], "INPUT__1": question["ids"]})["output"],
    lambda container, question: container.run({"ids": question["ids"], "x": question["x"].t().contiguous().t()})[
        "output"
    ],
    boxed,
    called,
]

KINDS = ["run"] * 4 + ["run_badly"] + ["stage"] * 3 + ["stage_partial"] * 3 + ["stage_bad"] * 3 + ["commit"] * 5
KINDS += ["rollback"] * 3 + ["abort", "release"]
# Those that load the library anew, ten times as dear as all others.
OP = st.tuples(st.sampled_from(KINDS * 3 + ["reopen", "stage_that_breaks"]), st.integers(0, 2**32 - 1))


def once_each(examples: int) -> settings:
    """The same sequences in each run; threads do not let them be shrunk."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(
        max_examples=examples,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        suppress_health_check=checks,
    )


def examples(short: int, long: int) -> pytest.MarkDecorator:
    """So many sequences always, and so many by night."""
    return pytest.mark.parametrize("count", [short, pytest.param(long, marks=pytest.mark.long)])


@examples(4, 20)
def test_a_container_does_what_eager_pytorch_does(subject: Subject, count: int) -> None:
    """One thread changes the weights in every way there is, four ask; every answer is the one of the version it names.

    A failure's notes hold the last steps.
    """

    @once_each(count)
    @given(ops=st.lists(OP, min_size=STEPS, max_size=STEPS))
    def every_answer_is_right(ops: list[Op]) -> None:
        change_while_others_ask(subject, ops)

    every_answer_is_right()


def change_while_others_ask(subject: Subject, ops: list[Op]) -> None:
    oracle = Oracle(subject)
    session = Session(subject)
    trace: deque[Op] = deque(maxlen=30)
    askers = Askers(oracle, session)
    driver = Driver(oracle, session, askers)
    try:
        with askers:
            for op in ops:
                trace.append(op)
                driver.step(*op)
                assert not askers.failures
    except BaseException as error:
        error.add_note(f"the last steps: {list(trace)}")
        raise
    finally:
        driver.container.close()
    assert askers.asked


class Stager(threading.Thread):
    """Stages, commits and rolls back while another one does, too: it knows what it staged, not what is active."""

    def __init__(self, container: Container, oracle: Oracle, ops: list[Op], answers: threading.Event) -> None:
        super().__init__()
        self.failure: BaseException | None = None
        self._container, self._oracle, self._ops, self._answers = container, oracle, ops, answers

    def run(self) -> None:
        try:
            for kind, seed in self._ops:
                self._step(kind, random.Random(seed))
        except BaseException as failure:
            self.failure = failure

    def _step(self, kind: str, rng: random.Random) -> None:
        container = self._container
        try:
            if kind in ("stage", "stage_partial"):
                number = next(self._oracle.numbers)
                stage(container, self._oracle, number, rng, partial=kind == "stage_partial")
            elif kind == "stage_bad":
                number = next(self._oracle.numbers)
                with pytest.raises(InvalidWeights):
                    stage(container, self._oracle, number, rng, partial=False, spoil=rng.choice(list(SPOILERS)))
            else:
                getattr(container, kind)()
        except (NothingStaged, NothingToRollBack, WeightsMissing):
            return
        finally:
            if container.version is not None:
                self._answers.set()


RACE = st.tuples(
    st.sampled_from(["stage"] * 2 + ["stage_partial"] * 2 + ["stage_bad"] + ["commit"] * 4 + ["rollback", "rollback"])
    | st.sampled_from(["abort", "release"]),
    st.integers(0, 2**32 - 1),
)
RACES = st.lists(RACE, min_size=RACE_STEPS, max_size=RACE_STEPS)


@examples(2, 6)
def test_two_stagers_at_once_never_mix_their_weights(subject: Subject, count: int) -> None:
    @once_each(count)
    @given(one=RACES, other=RACES)
    def no_answer_is_mixed(one: list[Op], other: list[Op]) -> None:
        stage_from_two_threads(subject, one, other)

    no_answer_is_mixed()


def stage_from_two_threads(subject: Subject, one: list[Op], other: list[Op]) -> None:
    oracle, session = Oracle(subject), Session(subject)
    with session.container as container:
        stagers = [Stager(container, oracle, ops, session.answers) for ops in (one, other)]
        stagers[0]._step("stage", random.Random(0))
        container.commit()
        with Askers(oracle, session, ordered=False) as askers:
            for stager in stagers:
                stager.start()
            for stager in stagers:
                stager.join()
            for stager in stagers:
                if stager.failure:
                    raise stager.failure
            assert not askers.failures
        assert container.version is not None
        for number in range(len(subject.questions)):
            oracle.check(container.version, number, container.run(subject.questions[number])["output"])


def test_an_answer_names_the_version_that_was_active_during_the_run(subject: Subject) -> None:
    """A flip in the very moment in which the run has left the gate does not change the name."""
    oracle = Oracle(subject)
    with Container(subject.package) as container:
        for version in (1, 2):
            stage(container, oracle, version, random.Random(version), partial=False)
            if version == 1:
                container.commit()
        leave = Gate.__exit__

        def then_flip(gate: Gate, *why: object) -> None:
            leave(gate, *why)
            container.commit()

        with patch.object(Gate, "__exit__", then_flip):
            version, outputs = container.infer(subject.questions[0])
        assert (version, container.version) == (1, 2)
        oracle.check(version, 0, outputs["output"])


def test_tied_tensors_with_a_negative_bit_are_taken(subject: Subject) -> None:
    oracle, weights = Oracle(subject), subject.fresh(1)
    oracle.learn(1, subject.baseline | known(weights))
    for name in ("table.weight", "last.weight"):
        weights[name] = torch._neg_view(-weights[name])
    with Container(subject.package) as container:
        container.stage(weights)
        container.commit()
        oracle.check(1, 0, container.run(subject.questions[0])["output"])


def test_a_container_made_in_inference_mode_takes_weights_outside_of_it(subject: Subject) -> None:
    oracle = Oracle(subject)
    with torch.inference_mode():
        container = Container(subject.package)
    with container:
        for version in (1, 2, 3):
            stage(container, oracle, version, random.Random(version), partial=version == 3)
            container.commit()
            oracle.check(version, 0, container.run(subject.questions[0])["output"])
