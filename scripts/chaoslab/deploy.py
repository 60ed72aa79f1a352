"""A driver that puts a configuration on the cluster, as `serve deploy` does, and leaves it there.

    python -m chaoslab.deploy ADDRESS CONFIG

A process of its own: Ray ends the drivers of a cluster that dies, and the judge must outlive all of them.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema


def main(address: str, config: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(proxy_location=ProxyLocation.Disabled)
    client: Any = _get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate(yaml.safe_load(Path(config).read_text())), _blocking=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
