"""Errors are their facts; the tree below says their parents and statuses."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from string import Formatter
from typing import Any, NamedTuple

import pytest

from aoti_serve import errors
from aoti_serve.errors import AotiServeError, ServerRefused, StageFailed, UnknownTensor

TREE = """
AotiServeError                      500
├── InvalidInput                    400  the request does not fit the signature or the protocol
│   ├── InvalidBody                      the body is not a V2 request
│   ├── UnservedParameter                a parameter of Triton's that means nothing here
│   ├── SequenceWithoutVersion           a sequence goes on, and does not say with which version
│   ├── UnknownInput, MissingInput, UnknownOutput, RepeatedOutput
│   ├── TooManyTensors, TooManyRows, EmptyRows
│   ├── WrongInputDtype, WrongInputShape, WrongInputLength, IndexOutOfRange
│   ├── InvalidInputData
│   │   └── NotOfDatatype                what JSON or protobuf holds is not what the request calls it
│   └── ProcessorRefused                 the model's own code cannot use what was sent
├── UnknownModel, UnknownVersion    404
├── SequenceEnded                   410  the version that it began with is not resident any more
├── NotServed                       501  what other servers of the protocol have
├── BodyTooLarge                    413
│   └── JsonTooLarge                     its JSON alone
├── BodyTooSlow                     408
├── HeadersTooLarge                 431  of a gRPC call
├── InvalidConfig                   400
│   └── InvalidArguments                 all that is wrong with a section of it
├── WrongUsage                      400
├── WeightsError
│   ├── InvalidWeights              400  the weights do not fit the package
│   │   ├── UnreadableWeights
│   │   │   └── PickledWeights           of torch.save
│   │   ├── DigestMismatch
│   │   ├── WrongNameRule                to rename or drop tensors
│   │   ├── WeightsTooLarge         413  the file, its header, or the number of its tensors
│   │   ├── UnknownTensor
│   │   │   ├── UnknownOrBakedTensor  or compiled in; this package does not tell
│   │   │   └── OtherNames               all, or many, and by which pattern
│   │   ├── MissingTensor, WrongTensorDtype, WrongTensorShape, UnfitTensor
│   │   ├── NotFinite                     NaN, or infinities where the package had none
│   │   ├── TiedTensorsDiffer, ConstantIsBaked
│   │   ├── UnfitAdapter                 a LoRA adapter that cannot be merged
│   │   ├── UnfitAssets                      files for the processor that it does not read, or too much of them
│   │   ├── AssetsRefused                    the processor cannot be made with the files of a version
│   │   ├── UnreadableGolden, UnfitGolden    golden requests that are none, or none of this package
│   │   ├── GoldenFailed                 tried before they are committed, they answer otherwise than they must
│   │   ├── AnswersNotFinite              tried before they are committed, they answer NaN
│   │   └── WeightsDoNotRun              ... or fail
│   ├── UploadFailed                400  the bytes have not all arrived
│   ├── SwapInProgress, CandidateOut, NoCandidate, CandidateWithdrawn, RolloutDecides      409
│   ├── StageFailed                 (the status of its cause) a replica could not stage; nothing has changed
│   ├── BadIndexInWeights               500
│   ├── StageWithdrawn              409  a stage was stopped under way
│   ├── NothingStaged, NothingToRollBack, BuiltInWeightsReleased, VersionTaken      409
│   ├── BaseVersionMismatch         409
│   │   └── DeltaBaseMismatch            a delta of other bytes than those that answer
│   ├── BaseHasNoFile               409
│   ├── Superseded                  503  a newer coordinator has taken over; nothing was committed
│   │   └── LedElsewhere                 that of another application
│   ├── NotSettled                  503  ... and completes what was committed
│   ├── UnknownWeightsVersion, NotInStore, VersionNotResident      404
│   ├── LabelMoved, TooManyLabels   409
│   ├── SourceRefused               403  a URI outside the allowed roots
│   ├── StoreFailed                 507  the versions could not be written or read
│   │   └── StoreDamaged                 a file in the store is not what was written there
│   ├── CommitUnknown               503  the store did not answer; the next coordinator reads what stands
│   ├── NotEnoughMemory             507  a replica has no room to stage; nothing has changed
│   └── WeightsMissing              503  a package without weights was asked to run
├── PackageError
│   ├── UnreadablePackage, UnknownSignature, IncompatiblePackage, BakedConstants
│   ├── CannotPrepare                    this machine cannot prepare weights as the package says
│   ├── WrongOutput                      a package gives what its declared signature does not say
│   ├── MissingOperators                 custom operators that nobody has imported
│   ├── ExportFailed                     torch could not export or compile the module
│   ├── CannotQuantize                   what was asked for is there for other modules, devices or kinds
│   ├── TooInaccurate                    a quantised package answers too differently from its module
│   ├── UnfitForInt8                     this processor would add up wrongly, or go on with old scales
│   └── UnsupportedModule                export cannot describe this module
├── Unauthorized                    401, AdminClosed 403
├── TooManyWrongTokens              429  from one address
├── Unavailable                     503
│   ├── TryAgain                         for any other reason
│   ├── Stopping                         it takes no new requests any more
│   ├── QueueFull                        as much waits in the gateway as may wait
│   │   └── WaitTooLong                  ... or for longer
│   ├── NoReplica                        no replica of the model lives
│   ├── ReadingTooMuch                   ... or is being read
│   ├── TooManyCalls                     as many gRPC calls are under way as may be
│   ├── VersionsDiffer                   a request in pieces was overtaken by one swap after the other
│   ├── ReplicaBehind                    a replica has not reached the fence in time
│   ├── ReplicaDied
│   ├── NoProcessor                      all are busy, or being started
│   ├── ProcessorDied                    two died over the request
│   ├── LinkBroken, LinkRefused          between processes of the server
│   └── ContainerClosed
├── DeadlineExceeded                504  the request's own timeout
├── ProcessorHung                   504  the model's own code did not return
├── ProcessorFailed                 500  ... or raised, or returned what does not fit
├── PoisonRequest                   500  two replicas died over it
├── ReplicaAtFault                  500  nothing runs in a replica
├── ReplicaFailed                   500  a replica raised none of these
├── RuntimeFailed                   500  AOTInductor reported an error of its own
├── ServerUnreachable, CertificateNotTrusted, ServerRefused, NoAdminToken, RolloutFailed    what the command line meets
├── PortTaken                            the gateway's port
└── StartFailed                          `up` or a gateway could not start
    ├── PortHeld                         a port that a server needs
    └── BadCertificate                   the gateway's TLS
"""


class Listed(NamedTuple):
    """A class as the tree lists it."""

    name: str
    parent: str | None
    status: int | None


def subclasses(kind: type[AotiServeError] = AotiServeError) -> Iterator[type[AotiServeError]]:
    yield kind
    for sub in kind.__subclasses__():
        if sub.__module__.startswith(errors.__name__):
            yield from subclasses(sub)


def listed() -> Iterator[Listed]:
    path: list[str] = []
    for line in TREE.strip().splitlines():
        content = line.lstrip("│├└─ ")
        depth = (len(line) - len(content)) // 4
        for match in re.finditer(r"(?:^|, )([A-Z]\w+)", content):
            status = re.search(r"\b\d{3}\b", content[match.end() :])
            path[depth:] = [match[1]]
            yield Listed(match[1], path[depth - 1] if depth else None, int(status[0]) if status else None)


def declared(kind: type[AotiServeError]) -> tuple[Field[Any], ...]:
    return fields(kind) if is_dataclass(kind) else ()


def facts_of(kind: type[AotiServeError]) -> dict[str, Any]:
    """A fact of some kind for every field."""
    facts: dict[str, Any] = {field.name: f"<{field.name}>" for field in declared(kind)}
    if issubclass(kind, StageFailed):
        facts["cause"] = UnknownTensor(name="w")
    if issubclass(kind, ServerRefused):
        facts["code"] = 418
    return facts


def named(text: str) -> set[str]:
    """The facts that a template names."""
    return {field for _, field, _, _ in Formatter().parse(text) if field}


# What only groups others, and is never raised itself, has no facts.
CATEGORIES = {kind for kind in subclasses() if kind.__subclasses__() and not facts_of(kind)}
KINDS = [pytest.param(kind, id=kind.__name__) for kind in subclasses() if kind not in CATEGORIES]
SILENT = {
    "StageFailed": {"story"},
    "ReplicaFailed": {"detail"},
    "ServerRefused": {"code", "kind"},
    "OtherNames": {"name"},
    "InvalidArguments": {"problems"},
    "PortHeld": {"pid", "left_behind"},
}
LISTED = [pytest.param(entry, id=entry.name) for entry in listed()]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind: type[AotiServeError]) -> None:
    error = kind(**facts_of(kind))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.http_status == error.http_status
    assert {key: str(fact) for key, fact in copy.facts.items()} == {key: str(fact) for key, fact in error.facts.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_says_every_fact(kind: type[AotiServeError]) -> None:
    facts = facts_of(kind)
    said = str(kind(**facts))
    assert {name for name, fact in facts.items() if str(fact) not in said} == SILENT.get(kind.__name__, set())
    assert named(kind.text) <= set(facts)


@pytest.mark.parametrize("kind", KINDS)
def test_facts_are_these_and_no_others(kind: type[AotiServeError]) -> None:
    facts = facts_of(kind)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        kind(**facts | {"unheard_of": 1})
    if required := [field.name for field in declared(kind) if field.default is MISSING]:
        with pytest.raises(TypeError, match=f"missing .* '{required[0]}'"):
            kind(**{name: fact for name, fact in facts.items() if name != required[0]})


def test_a_number_of_seconds_is_not_said_to_the_last_digit() -> None:
    assert "within 0.3 s" in str(errors.DeadlineExceeded(model="m", timeout=0.1 + 0.2))


@pytest.mark.parametrize(("seconds", "said"), [(1e-6, "0.000001"), (2.5e-5, "0.000025"), (1e-3, "0.001"), (30.0, "30")])
def test_a_short_time_is_said_without_an_exponent(seconds: float, said: str) -> None:
    assert f"within {said} s" in str(errors.DeadlineExceeded(model="m", timeout=seconds))


def test_one_of_something_is_said_in_the_singular() -> None:
    assert [errors.quantity(number, "bytes") for number in (0, 1, 2, 11)] == [
        "0 bytes",
        "1 byte",
        "2 bytes",
        "11 bytes",
    ]
    assert [str(errors.EmptyRows(rows=rows))[:5] for rows in (1, 2)] == ["1 row", "2 row"]
    lengths = [errors.WrongInputLength(name="x", got=got, unit="bytes", shape=[2], expected=8) for got in (1, 7)]
    assert [str(error) for error in lengths] == [
        f"input 'x': {got}, shape [2] needs 8" for got in ("1 byte", "7 bytes")
    ]


def test_facts_with_braces_are_not_formatted_again() -> None:
    assert str(UnknownTensor(name="{detail}")) == "tensor '{detail}': the package has no such constant"


@pytest.mark.parametrize("kind", KINDS)
def test_the_tree_names_every_class(kind: type[AotiServeError]) -> None:
    assert kind.__name__ in {entry.name for entry in listed()}


@pytest.mark.parametrize("entry", LISTED)
def test_the_tree_is_right_about_parent_and_status(entry: Listed) -> None:
    kind: type[AotiServeError] = getattr(errors, entry.name)
    if entry.parent is not None:
        assert kind.__bases__ == (getattr(errors, entry.parent),)
    if entry.status is not None:
        status = kind.status if kind in CATEGORIES else kind(**facts_of(kind)).http_status
        assert status == entry.status


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        pytest.param(UnknownTensor(name="w"), 400, id="ours"),
        pytest.param(errors.StoreFailed(path="/s", detail="full"), 507, id="ours-other-status"),
        pytest.param(RuntimeError("boom"), 500, id="foreign"),
        pytest.param(errors.TryAgain(detail="no answer within 300 s"), 503, id="late"),
    ],
)
def test_stage_failed_takes_its_status_from_its_cause(cause: BaseException, status: int) -> None:
    error = StageFailed(replica="r1", version=7, cause=cause)
    assert error.http_status == status
    assert str(error) == f"replica r1 could not stage version 7, nothing has changed: {cause}"


def test_server_refused_takes_the_status_of_the_server() -> None:
    assert ServerRefused(code=409, detail="busy").http_status == 409


@pytest.mark.parametrize("letter", ["x", "\N{SNOWMAN}", "\N{GRINNING FACE}", "\n"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_longer_than_it_may_be_whatever_the_facts(kind: type[AotiServeError], letter: str) -> None:
    for long in (letter * 100_000, [letter] * 100_000):
        facts = {name: long if isinstance(fact, str) else fact for name, fact in facts_of(kind).items()}
        said = str(kind(**facts))
        assert len(said.encode()) <= kind.longest
        assert "…" in said or "{" not in kind.text


def test_an_error_that_a_client_can_meet_takes_a_kilobyte_at_most() -> None:
    longer = {kind for kind in subclasses() if kind.longest > 1024}
    assert longer == set(subclasses(errors.PackageError))


def test_a_long_fact_leaves_room_for_the_others() -> None:
    said = str(errors.UnknownInput(name="n" * 5_000, known=["x", "y"]))
    assert said.startswith("input 'nnn")
    assert said.endswith("…': the model has no such input; available: x, y")


def test_what_is_no_text_in_utf8_is_shortened_all_the_same() -> None:
    assert len(str(UnknownTensor(name="\udc80" * 5_000)).encode()) <= 1024
