"""What an adapter's tensors make of the base, under the names that PEFT gives them; and what is refused."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from aoti_serve.errors import UnfitAdapter, UnknownTensor
from aoti_serve.weights.adapter_config import AdapterConfig
from aoti_serve.weights.files import adapter as adapter_module
from aoti_serve.weights.files.adapter import PEFT_PREFIX, adapted_parts
from aoti_serve.weights.files.index import index_in
from aoti_serve.weights.files.merge import FilePart, parts_in

Arrays = dict[str, NDArray[Any]]
RNG = np.random.default_rng(0)


def random(*shape: int) -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def parts(tensors: Mapping[str, NDArray[Any]]) -> dict[str, FilePart]:
    content = save(dict(tensors))
    return parts_in(io.BytesIO(content), index_in(io.BytesIO(content), len(content)))


def adapted(adapter: Arrays, base: Arrays, tied: dict[str, str] | None = None, **settings: Any) -> Arrays:
    """The tensors that `adapter`, whose names lack the prefix, changes; of rank 2, and scaled by 3 if not otherwise."""
    config = AdapterConfig.model_validate({"r": 2, "lora_alpha": 6} | settings)
    named = {PEFT_PREFIX + name: tensor for name, tensor in adapter.items()}
    made = adapted_parts(parts(named), parts(base), config, tied or {})
    return {
        name: np.frombuffer(b"".join(part.chunks()), part.span.dtype).reshape(part.span.shape)
        for name, part in made.items()
    }


BASE = {
    "x.q.weight": random(4, 5),
    "x.q.bias": random(4),
    "embed.weight": random(9, 3),
    "conv.weight": random(6, 5, 3, 3),
}
PAIR = {"x.q.lora_A.weight": random(2, 5), "x.q.lora_B.weight": random(4, 2)}
DELTA = PAIR["x.q.lora_B.weight"] @ PAIR["x.q.lora_A.weight"]


def test_a_linear_layer() -> None:
    (name,), (made,) = zip(*adapted(PAIR, BASE).items(), strict=True)
    assert name == "x.q.weight"
    np.testing.assert_allclose(made, BASE["x.q.weight"] + 3 * DELTA, rtol=1e-5, atol=1e-6)


def test_an_embedding() -> None:
    a, b = random(2, 9), random(3, 2)
    made = adapted({"embed.lora_embedding_A": a, "embed.lora_embedding_B": b}, BASE)["embed.weight"]
    np.testing.assert_allclose(made, BASE["embed.weight"] + 3 * (b @ a).T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [(), (1,), (7,), (1, 1), (3, 3), (2, 1, 3)])
def test_a_convolution_sums_over_its_ranks_at_each_place_of_its_kernel(kernel: tuple[int, ...]) -> None:
    old, a, b = random(6, 5, *kernel), random(2, 5, *kernel), random(6, 2, *[1 for _ in kernel])
    made = adapted({"c.lora_A.weight": a, "c.lora_B.weight": b}, {"c.weight": old})["c.weight"]
    delta = np.einsum("or,ri...->oi...", b.reshape(6, 2), a)
    np.testing.assert_allclose(made, old + 3 * delta, rtol=1e-5, atol=1e-5)


def test_the_settings_of_the_module_count() -> None:
    made = adapted(PAIR, BASE, r=8, use_rslora=True, rank_pattern={"q": 2}, alpha_pattern={"^x.q": 5})
    np.testing.assert_allclose(made["x.q.weight"], BASE["x.q.weight"] + 5 / math.sqrt(2) * DELTA, rtol=1e-5, atol=1e-6)


def test_whole_tensors_take_the_place_of_the_bases() -> None:
    whole = {"x.q.base_layer.bias": random(4), "head.weight": random(2, 2)}
    made = adapted(whole, BASE)
    assert made.keys() == {"x.q.bias", "head.weight"}
    assert made["x.q.bias"].tolist() == whole["x.q.base_layer.bias"].tolist()


def test_a_whole_tensor_is_what_its_own_pair_is_added_to() -> None:
    """PEFT saves an embedding that it has adapted as a whole, too."""
    whole = random(4, 5)
    made = adapted(PAIR | {"x.q.base_layer.weight": whole}, BASE)["x.q.weight"]
    np.testing.assert_allclose(made, whole + 3 * DELTA, rtol=1e-5, atol=1e-6)


def test_tied_names_are_changed_together() -> None:
    both = {"a.lora_embedding_A": random(2, 9), "a.lora_embedding_B": random(3, 2)}
    both |= {"b.lora_A.weight": both["a.lora_embedding_B"].T, "b.lora_B.weight": both["a.lora_embedding_A"].T}
    old = random(9, 3)
    made = adapted(
        {name: tensor.copy() for name, tensor in both.items()},
        {"a.weight": old, "b.weight": old},
        {"b.weight": "a.weight"},
    )
    assert made["a.weight"].tobytes() == made["b.weight"].tobytes()


@pytest.mark.parametrize("module", ["a", "b"])
def test_an_adapter_of_one_of_two_tied_names_is_refused(module: str) -> None:
    pair = {f"{module}.lora_A.weight": random(2, 3), f"{module}.lora_B.weight": random(9, 2)}
    old = random(9, 3)
    other = {"a": "b", "b": "a"}[module]
    with pytest.raises(UnfitAdapter, match=f"tensor '{module}.weight': the package ties it to '{other}.weight'"):
        adapted(pair, {"a.weight": old, "b.weight": old}, {"b.weight": "a.weight"})


def test_a_module_that_the_base_does_not_have_is_named() -> None:
    with pytest.raises(
        UnknownTensor, match=r"tensor 'y.q.weight': the package has no such constant, which the adapter"
    ):
        adapted({name.replace("x", "y"): tensor for name, tensor in PAIR.items()}, BASE)


A, B = "x.q.lora_A.weight", "x.q.lora_B.weight"


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        pytest.param({A: PAIR[A]}, r"'x.q': of the tensors of a pair it has lora_A.weight; merge it", id="half"),
        pytest.param(
            {A: PAIR[A], "x.q.lora_embedding_B": PAIR[B]}, "has lora_A.weight and lora_embedding_B", id="mixed"
        ),
        pytest.param({A: PAIR[A], B: random(5, 2)}, r"'x.q': A \[2, 5\] and B \[5, 2\] do not make \[4, 5\]", id="B"),
        pytest.param({A: random(2, 4), B: PAIR[B]}, r"do not make \[4, 5\]; was it trained on", id="A"),
        pytest.param({A: random(3, 5), B: PAIR[B]}, "do not make", id="ranks-differ"),
        pytest.param({A: random(3, 5), B: random(4, 3)}, "its rank is 3, and by its settings 2", id="other-rank"),
        pytest.param({A: random(0, 5), B: random(4, 0)}, "its rank is 0", id="no-rank"),
        pytest.param({A: np.zeros((), np.float32), B: PAIR[B]}, "do not make", id="scalar"),
        pytest.param(
            {A: PAIR[A].astype(np.int8), B: PAIR[B]}, "dtypes float32, int8, float32: only float16", id="int8"
        ),
        pytest.param(PAIR | {"x.q.lora_magnitude_vector": random(4)}, "magnitude_vector': its kind is not", id="dora"),
        pytest.param(PAIR | {"x.q.lora_B.bias": random(4)}, "lora_B.bias': its kind is not supported", id="lora-bias"),
        pytest.param({"x.q.lora_A.default.weight": PAIR[A]}, "default.weight': its kind is not", id="named-adapter"),
        pytest.param({"x.q.bias": random(4), "x.q.base_layer.bias": random(4)}, "two for one place", id="twice"),
        pytest.param(PAIR | {"x.base_layer.q.lora_A.weight": PAIR[A]}, "two for one place", id="pair-twice"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(adapter: Arrays, said: str) -> None:
    with pytest.raises(UnfitAdapter, match=said):
        adapted(adapter, BASE)


def test_a_base_that_is_no_float_is_refused() -> None:
    with pytest.raises(UnfitAdapter, match=r"'x.q': dtypes int8, float32, float32"):
        adapted(PAIR, {"x.q.weight": np.zeros((4, 5), np.int8)})


def test_a_name_without_pefts_prefix_is_refused() -> None:
    with pytest.raises(UnfitAdapter, match=r"tensor 'q.lora_A.weight': PEFT's names begin with 'base_model.model.'"):
        adapted_parts(parts({"q.lora_A.weight": random(2, 5)}), parts(BASE), AdapterConfig(r=2, lora_alpha=2), {})


def test_factors_that_are_not_small_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_module, "MAX_FACTOR_ELEMENTS", 9)
    with pytest.raises(UnfitAdapter, match=r"'x.q': one of its tensors has more than 9 elements"):
        adapted(PAIR, BASE)
