"""A real server that follows a folder: what a trainer puts there answers, without anybody asking for it."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.served import Eager, serving, write_config
from tests.e2e.wire import until


def put(place: Path, name: str, content: bytes) -> None:
    """As a careful trainer does: written elsewhere, renamed into place."""
    aside = place.parent / name
    aside.mkdir()
    (aside / "model.safetensors").write_bytes(content)
    aside.replace(place / name)


def test_what_is_put_into_a_followed_folder_answers_and_what_does_not_fit_changes_nothing(
    digits_dir: Path, eager: Eager, tmp_path: Path
) -> None:
    place = tmp_path / "runs"
    place.mkdir()
    config = write_config(tmp_path, digits_dir, follow={"uri": str(place), "every": "1s"})
    with serving(config) as server:
        put(place, "step-9", eager.files["v2"])
        until(lambda: server.status()["current"]["label"] == "step-9")
        put(place, "step-10", b"no weights")
        until(lambda: server.status()["follow"]["last_seen"] == "step-10")
        put(place, "step-11", eager.files["v1"])
        until(lambda: server.status()["current"]["label"] == "step-11")
        found = server.status()["follow"]
        assert (found["uri"], found["last_tried"], found["outcome"]) == (str(place), "step-11", "committed")
        assert server.rollback().json()["current"]["label"] == "step-9"
    with serving(config) as server:
        until(lambda: (server.status()["follow"] or {}).get("last_seen") == "step-11")
        assert server.status()["current"]["label"] == "step-9", "what was tried is not tried again"
