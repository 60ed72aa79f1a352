"""Several static lengths, and batches, served as one model: every answer is the unpadded module's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import MissingInput, UnsupportedModule, WrongInputShape
from aoti_serve.gateway.batching.batcher import Batcher
from aoti_serve.gateway.batching.lengths import RowPadding
from aoti_serve.gateway.batching.work_item import Arrays, Rows
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.link.messages import AnswerMessage
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package

# torch.export's own, of LSTMs
pytestmark = pytest.mark.filterwarnings(r"ignore:The tensor attributes? self\..*_flat_weights:UserWarning")
SIZES = {"batch": (1, 4), "length": (4, 16)}


class Encoder(nn.Module):
    """A small transformer that does not look at what its mask hides."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.places = nn.Embedding(16, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.last = nn.Linear(16, 8)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1]))
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 4
        scores = scores.masked_fill(mask[:, None, :] == 0, -1e9)
        hidden = self.last(torch.relu(x + scores.softmax(-1) @ self.value(x)))
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"hidden": hidden, "pooled": pooled}


class Recurrent(nn.Module):
    """An LSTM, whose length torch fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, batch_first=True)
        self.last = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(x)
        answer: torch.Tensor = self.last(hidden)
        return answer


class Averaged(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


class Halved(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, ::2]


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], -1).reshape(x.shape[0], -1)


def named(*inputs: str) -> dict[str, dict[int, Dim]]:
    batch, length = Dim("batch", max=64), Dim("length", max=16)
    return {name: {0: batch, 1: length} for name in inputs}


def sentences(rows: int, length: int) -> torch.Tensor:
    return torch.randint(1, 50, (rows, length), generator=torch.Generator().manual_seed(31 * rows + length))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Package]:
    torch.manual_seed(2)
    module = Encoder().eval()
    inputs = {"ids": sentences(2, 6), "mask": torch.ones(2, 6)}
    path = tmp_path_factory.mktemp("lengths") / "encoder.pt2"
    pad: dict[str, float | str] = {"ids": 0, "mask": "mask"}
    return module, export_package(module, inputs, path, dynamic_shapes=named("ids", "mask"), sizes=SIZES, pad=pad)


@pytest.fixture(scope="module")
def container(encoder: tuple[Encoder, Package]) -> Iterator[Container]:
    module, package = encoder
    with Container(package, num_runners=2) as made:
        made.stage(module.state_dict())
        made.commit()
        yield made


@pytest.mark.parametrize("rows", [0, 1, 3, 4])
@pytest.mark.parametrize("length", [1, 4, 5, 11, 16])
def test_every_answer_of_an_encoder_is_the_unpadded_modules(
    container: Container, encoder: tuple[Encoder, Package], rows: int, length: int
) -> None:
    ids, mask = sentences(rows, length), torch.ones(rows, length)
    mask[:, length // 2 + 1 :] = 0
    expected = encoder[0](ids, mask)
    outputs = container.run({"ids": ids, "mask": mask})
    assert outputs["hidden"].shape == (rows, length, 8)
    for name, tensor in expected.items():
        torch.testing.assert_close(outputs[name], tensor)


def test_every_answer_of_a_shared_batch_is_the_unpadded_modules(
    container: Container, encoder: tuple[Encoder, Package]
) -> None:
    """Through the batcher, 120 sentences of mixed lengths, asked at once."""
    module, package = encoder
    shapes: list[tuple[int, ...]] = []

    async def run(arrays: Arrays, timeout: float | None) -> AnswerMessage:
        shapes.append(arrays[0].shape)
        tensors = [torch.from_numpy(array.copy()) for array in arrays]
        _, outputs = await asyncio.to_thread(container.infer, tensors)
        return AnswerMessage(1, 0, [tensor.numpy() for tensor in outputs.values()])

    async def ask() -> list[Rows]:
        config = BatchingConfig(max_batch_size=4)
        batcher = Batcher(ModelFigures("m"), config, run, batches=True, lengths=RowPadding(package.signature))
        batcher.runners = 1
        return await asyncio.gather(*[batcher.submit([ids.numpy(), mask.numpy()]) for ids, mask in sent])

    sent = [(sentences(1 + at % 2, 1 + at * 7 % 16), torch.ones(1 + at % 2, 1 + at * 7 % 16)) for at in range(120)]
    for (ids, mask), rows in zip(sent, asyncio.run(ask()), strict=True):
        for expected, given in zip(module(ids, mask).values(), rows.outputs, strict=True):
            torch.testing.assert_close(torch.from_numpy(given), expected)
    assert len(shapes) < 80  # a run for each 2 rows would be 90


def test_a_mask_that_is_left_out_is_made(container: Container, encoder: tuple[Encoder, Package]) -> None:
    ids = sentences(2, 7)
    expected = encoder[0](ids, torch.ones(2, 7))
    torch.testing.assert_close(container.run({"ids": ids})["pooled"], expected["pooled"])
    with pytest.raises(MissingInput, match="'ids'"):
        container.run({"mask": torch.ones(2, 7)})


def test_one_archive_holds_each_combination_over_one_copy_of_the_weights(
    container: Container, encoder: tuple[Encoder, Package]
) -> None:
    _, package = encoder
    assert len(package.variants) == 4
    assert ({"batch": 4, "length": 16}, "batch4-length16") in package.variants
    assert package.signature.lengths == ("length",)
    assert package.signature.padding is not None
    assert package.signature.padding.sizes == {name: tuple(sizes) for name, sizes in SIZES.items()}
    held = [variant.runtime.extract() for variant in container._versions.runtime._variants]
    assert len({tensors["last.weight"].data_ptr() for tensors in held}) == 1


def test_the_smallest_that_fits_runs(container: Container) -> None:
    variants = container._versions.runtime._variants
    fitting = next(variant for variant in variants if variant.fits({"batch": 2, "length": 5}))
    assert fitting.sizes == {"batch": 4, "length": 16}


def test_what_is_longer_than_the_largest_is_refused(container: Container) -> None:
    with pytest.raises(WrongInputShape, match=r"length=1\.\.16"):
        container.run({"ids": sentences(1, 17)})


def test_every_answer_of_an_lstm_is_the_unpadded_modules(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = Recurrent().eval()
    package = export_package(
        module,
        (torch.randn(2, 5, 6),),
        tmp_path / "lstm.pt2",
        dynamic_shapes={"x": named("x")["x"]},
        sizes={"length": (4, 16)},
        pad={"x": 0.0},
    )
    assert package.signature.batch is not None
    assert package.signature.batch.max == 64
    with Container(package) as container:
        container.stage(module.state_dict())
        container.commit()
        for rows, length in ((1, 1), (1, 4), (3, 5), (7, 15), (2, 16)):
            x = torch.randn(rows, length, 6)
            torch.testing.assert_close(container.run({"x": x})["output"], module(x))


def test_padding_of_a_model_of_any_length_is_declared_without_sizes(tmp_path: Path) -> None:
    torch.manual_seed(2)
    module = Encoder().eval()
    inputs = (sentences(2, 6), torch.ones(2, 6))
    shapes = named("ids", "mask")
    package = export_package(
        module, inputs, tmp_path / "any.pt2", dynamic_shapes=shapes, pad={"ids": 0, "mask": "mask"}
    )
    assert package.variants == [({}, "model")]
    assert package.signature.lengths == ("length",)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        pytest.param(Averaged(), {"pad": {"x": 0}}, "output 0 changes where 'length' is padded", id="no-mask"),
        pytest.param(Halved(), {"pad": {"x": 0}}, "no whole multiple of 'length'", id="halved"),
        pytest.param(Averaged(), {}, r"say what it is padded with, pad x=0 \(--pad x=0\)", id="no-rule"),
        pytest.param(Averaged(), {"pad": {"y": 0}}, "has no such input; it has x", id="unknown-input"),
        pytest.param(Averaged(), {"pad": {"x": "ones"}}, "write a number that float32 has, or mask", id="no-number"),
        pytest.param(Averaged(), {"pad": {"x": 1e60}}, "float32 goes from", id="too-large"),
        pytest.param(Averaged(), {"sizes": {"width": (1,)}}, "its named dimensions are batch, length", id="unknown"),
        pytest.param(Averaged(), {"sizes": {"length": (0, 4)}}, "1 or more", id="zero"),
    ],
)
def test_what_cannot_be_padded_is_refused_before_it_is_compiled(
    tmp_path: Path, module: nn.Module, options: dict[str, object], message: str
) -> None:
    options = {"sizes": {"length": (4, 8)}} | options
    with pytest.raises(UnsupportedModule, match=message):
        export_package(
            module.eval(),
            (torch.randn(2, 4),),
            tmp_path / "m.pt2",
            dynamic_shapes=named("x"),
            **options,  # type: ignore[arg-type]
        )
    assert not list(tmp_path.iterdir())


def test_padding_that_changes_answers_may_be_asked_for(tmp_path: Path) -> None:
    module = Averaged().eval()
    package = export_package(
        module,
        (torch.randn(2, 4),),
        tmp_path / "m.pt2",
        dynamic_shapes=named("x"),
        sizes={"length": (8,)},
        pad={"x": 0},
        inexact_padding=True,
    )
    with Container(package) as container:
        container.stage({})
        container.commit()
        torch.testing.assert_close(container.run({"x": torch.ones(2, 4)})["output"], torch.full((2,), 0.5))


def test_an_output_that_grows_by_a_multiple_is_cut_back(tmp_path: Path) -> None:
    module = Doubled().eval()
    package = export_package(
        module,
        (torch.randn(2, 4, 1),),
        tmp_path / "m.pt2",
        dynamic_shapes=named("x"),
        sizes={"length": (8,)},
        pad={"x": 0},
    )
    with Container(package) as container:
        container.stage({})
        container.commit()
        x = torch.randn(3, 5, 1)
        torch.testing.assert_close(container.run({"x": x})["output"], module(x))
