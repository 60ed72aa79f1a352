"""The schema of KubeRay's RayService, as its custom resource definition has it, without the descriptions.

rayservice.json.gz is made from ray.io_rayservices.yaml of KubeRay v1.7.0 (Apache-2.0; sha256 0a8fc325e6e2...), by

    python -m tests.unit.examples.rayservice ray.io_rayservices.yaml
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

SCHEMA = Path(__file__).with_name("rayservice.json.gz")


def schema() -> Any:
    """With every unknown field refused, as `kubectl apply --validate=strict` and kubeconform do."""
    found = json.loads(gzip.decompress(SCHEMA.read_bytes()))
    found["properties"]["metadata"] = {"type": "object"}
    return _closed(found)


def _closed(part: Any) -> Any:
    if isinstance(part, list):
        return [_closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    made = {key: _closed(value) for key, value in part.items()}
    if made.get("type") == "object" and isinstance(made.get("properties"), dict):
        made.setdefault("additionalProperties", False)
    return made


def _bare(part: Any) -> Any:
    """Without descriptions, which are nine tenths of it."""
    if isinstance(part, list):
        return [_bare(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {key: _bare(value) for key, value in part.items() if key != "description" or isinstance(value, dict)}


if __name__ == "__main__":
    versions = yaml.load(Path(sys.argv[1]).read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (found,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1")
    SCHEMA.write_bytes(gzip.compress(json.dumps(_bare(found), separators=(",", ":")).encode(), mtime=0))
