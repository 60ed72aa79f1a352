"""The commands that `up` prints. Each works as printed, in another terminal in the same folder.

Where inference asks for a token, the shell's variable TOKEN must hold one.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from math import prod
from pathlib import Path

from aoti_serve.cli.client import DEFAULT_URL
from aoti_serve.cli.console import program_called
from aoti_serve.config import ModelConfig
from aoti_serve.errors import InvalidWeights
from aoti_serve.model.package import Package
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import DTYPES, Shaped
from aoti_serve.weights.files.cast import read_spans
from aoti_serve.weights.files.index import read_index

SHORT = 64  # elements; the text of a larger request does not fit a line


def commands(
    url: str, certificate: str | None, model: ModelConfig, package: Package, *, asks_token: bool = False
) -> list[str]:
    """The commands to infer, to swap if there are weights to swap to, and to see the status."""
    program = program_called()
    options = "" if url == DEFAULT_URL else f" --url {url}"
    certified = f"--cacert {_quoted(Path(certificate))} " if certificate else ""
    bearer = '-H "Authorization: Bearer $TOKEN" ' if asks_token else ""
    found = [_infer(f"curl -s {certified}{bearer}{url}/v2/models/{model.name}", model, package.signature)]
    if weights := next(_others(model, package.signature), None):
        found.append(f"{program} swap{options} {model.name} {_quoted(weights)}")
    return [*found, f"{program} status{options}"]


def request_of(signature: Signature) -> str:
    """The smallest request that the signature takes, all zeros, as JSON."""
    tensors = [
        _tensor(name, fit) | {"data": [_zero(fit)] * prod(fit.shape)} for name, fit in signature.smallest_inputs.items()
    ]
    return json.dumps({"inputs": tensors}, separators=(",", ":"))


def _infer(curl: str, model: ModelConfig, signature: Signature) -> str:
    example = model.package.with_suffix(".example.json")
    if example.exists():
        return f"{curl}/infer -d @{_quoted(example)}"
    if model.processor is not None:
        return curl  # which says what it takes
    if any(DTYPES[spec.dtype].raw for spec in signature.inputs):
        return curl  # these have no JSON form
    if sum(prod(fit.shape) for fit in signature.smallest_inputs.values()) <= SHORT:
        return f"{curl}/infer -d {shlex.quote(request_of(signature))}"
    return f"python3 -c {shlex.quote(_maker(signature))} | {curl}/infer -d @-"


def _maker(signature: Signature) -> str:
    """A program that prints the request, for requests that are too long to be printed here."""
    tensors = [
        f"{json.dumps(_tensor(name, fit))[:-1]}, 'data': [{_zero(fit)}] * {prod(fit.shape)}}}"
        for name, fit in signature.smallest_inputs.items()
    ]
    return f"import json; print(json.dumps({{'inputs': [{', '.join(tensors)}]}}))"


def _tensor(name: str, fit: Shaped) -> dict[str, object]:
    return {"name": name, "datatype": DTYPES[fit.dtype].oip, "shape": list(fit.shape)}


def _zero(fit: Shaped) -> int:
    return False if fit.dtype == "bool" else 0


def _others(model: ModelConfig, signature: Signature) -> Iterator[Path]:
    """The weights files beside the package that fit it, except the one that the server started with."""
    for path in sorted(model.package.parent.glob("*.safetensors")):
        if path.resolve() != model.weights:
            try:
                signature.check_weights(read_spans(read_index(path), model.checkpoints, signature))
            except InvalidWeights:
                continue
            yield path


def _quoted(path: Path) -> str:
    return shlex.quote(os.path.relpath(path))
