"""Being written."""

import json
from pathlib import Path


class AuditLog:
    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **facts: object) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(facts) + "\n")
