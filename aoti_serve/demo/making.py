"""Making the demo: its package, the versions of its weights, an example request, and a configuration that serves it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from aoti_serve.demo.configuration import LAST
from aoti_serve.demo.digits import HELD_OUT, Digits, DigitsNet, accuracy, load_images, make_model, train_epoch
from aoti_serve.errors import StartFailed
from aoti_serve.model.export import export_package

EPOCHS = 30
MORE_EPOCHS = 2

Said = Callable[[str], None]


def make_demo(folder: Path, say: Said, progress: Said) -> None:
    """Train, compile, and write all files into `folder`; on a CPU, in less than a minute, most of it compiling.

    digits.pt2 (code only), v1.safetensors (stopped early), v2.safetensors (trained), v3.safetensors (trained a little
    more), bad/broken.safetensors (v2 with a NaN), bad/shuffled.safetensors (v2, each class called by the name of the
    next one) and digits.example.json (a request with one held-out image). `say` takes lines that stay, `progress` what
    is being done. Raises StartFailed where something that it takes is missing.
    """
    _require_compiler()
    torch.manual_seed(0)
    train, held_out = load_images()
    net, inputs, shapes = make_model()
    package = export_package(
        net,
        inputs,
        folder / "digits.pt2",
        dynamic_shapes=shapes,
        progress=lambda phase: progress(f"compiling digits.pt2: {phase}"),
    )
    (folder / "digits.safetensors").unlink()  # the untrained weights that come with any package
    say(f"{'digits.pt2':20} {len(package.constants)} constants, all of them swappable")
    _write_example(folder / "digits.example.json", held_out)
    progress("training")
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4)
    for epoch in range(EPOCHS):
        train_epoch(net, optimizer, train)
        if epoch == 0:
            _save(net, folder / "v1.safetensors", held_out, say)
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - epoch / EPOCHS)
    _save(net, folder / "v2.safetensors", held_out, say)
    _write_bad(net, folder / "bad", held_out, say)
    for _ in range(MORE_EPOCHS):
        train_epoch(net, optimizer, train)
    _save(net, folder / LAST, held_out, say)


def _require_compiler() -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise StartFailed(detail=f"the demo is compiled here, and there is no {compiler}: install it, or set CXX")


def _write_bad(net: nn.Module, folder: Path, held_out: Digits, say: Said) -> None:
    """The weights that answer, spoilt in two ways. In a folder of their own: nobody should swap to them by chance."""
    folder.mkdir(exist_ok=True)
    broken, shuffled = DigitsNet().eval(), DigitsNet().eval()
    for spoilt in (broken, shuffled):
        spoilt.load_state_dict(net.state_dict())
    with torch.no_grad():
        broken.classify.bias[0] = torch.nan
        for parameter in (shuffled.classify.weight, shuffled.classify.bias):
            parameter.copy_(parameter.roll(1, 0))
    _save(broken, folder / "broken.safetensors", held_out, say)
    _save(shuffled, folder / "shuffled.safetensors", held_out, say)


def _write_example(path: Path, digits: Digits) -> None:
    data = digits.images[0].flatten().tolist()
    image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": data}
    path.write_text(json.dumps({"id": f"a {digits.labels[0]}", "inputs": [image]}) + "\n")


def _save(net: nn.Module, path: Path, held_out: Digits, say: Said) -> None:
    save_file(net.state_dict(), path)
    say(f"{path.name:20} {accuracy(net, held_out):6.1%} of the {HELD_OUT} held-out images")
