"""The folder of the demo, and the configuration that serves it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import yaml

from aoti_serve.errors import StartFailed

LAST = "v3.safetensors"  # written last: with it the folder is complete
CONFIGURATION = """\
# serve run {file}, or aoti-serve up {file}; {maker} builds what it names.
proxy_location: Disabled # the gateways listen themselves
applications:
  - name: default
    route_prefix: /
    import_path: aoti_serve.app:build
    args:
      gateway: {{ host: 127.0.0.1, http_port: 8000, grpc_port: 8001, replicas: 1 }}
      models:
        - name: digits
          package: {package}
          weights: {weights} # the first version; what is committed later is in the store
          store: {store}
          weights_roots: [{folder}]
          num_runners: 1
          replicas: 2
          batching: {{ max_batch_size: 256, max_queue_delay_ms: 0, max_queued_rows: 4096 }}
"""


def demo_in(folder: Path) -> bool:
    """Make the folder if it is not there. Returns true if a whole demo is in it. Raises StartFailed, which names it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartFailed(detail=f"--folder {folder}: it cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StartFailed(detail=f"--folder {folder}: this user cannot write there")
    return (folder / LAST).exists()


def demo_configuration(folder: Path, file: Path, maker: str) -> str:
    """The text of `file`. Paths stay as `folder` is given: relative ones are from where the server is started."""
    places = {"package": "digits.pt2", "weights": "v1.safetensors", "store": "versions", "folder": ""}
    located = {key: _scalar(str(folder / name)) for key, name in places.items()}
    return CONFIGURATION.format(file=file, maker=maker, **located)


def _scalar(path: str) -> str:
    """The path as YAML takes it: in JSON's form if it would mean something else to it, as `12` or `a: b` would."""
    plain = re.fullmatch(r"[\w./-]+", path) and yaml.safe_load(path) == path
    return path if plain else json.dumps(path)
