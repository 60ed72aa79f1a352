"""Two clusters on one store, as during an upgrade by a second one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.served import Eager, serving, write_config
from tests.e2e.wire import until

LED = "warning: model 'digits': another server leads its store now."


@pytest.mark.long
def test_the_older_cluster_follows_the_newer_one_and_takes_the_store_back(
    digits_dir: Path, eager: Eager, tmp_path: Path
) -> None:
    config = write_config(tmp_path, digits_dir, replicas=1)
    with serving(config) as blue:
        assert LED not in blue.launched.output
        assert LED in " ".join(checked(config).split())
        with serving(config) as green:
            assert green.launched.output.count(LED) <= 1  # if it has heard of it in time
            until(lambda: blue.status()["superseded"] is not None)
            refused = blue.swap(eager.files["v2"])
            assert refused.status_code == 503
            assert "another application has opened its store" in refused.json()["error"]
            swapped = green.swap(eager.files["v2"]).json()
            assert swapped["superseded"] is None
            until(lambda: blue.status()["current"] == swapped["current"])
            assert blue.http.get("/v2/health/ready").status_code == 200
        until(lambda: blue.status()["superseded"] is None, 180)
        assert blue.swap(eager.files["v1"]).status_code == 200


def checked(config: Path) -> str:
    """What `aoti-serve check` has to say."""
    command = [sys.executable, "-m", "aoti_serve", "check", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stderr
