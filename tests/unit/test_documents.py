"""What the documents for developers name is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import aoti_serve

ROOT = Path(aoti_serve.__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "scripts/README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")),
)
CODE = re.compile(r"## The code\n.*?```text\n(.*?)```", re.S)
TEXT = {".md", ".py", ".yaml", ".yml", ".toml", ".json", ""}
PLACES = ("aoti_serve", "configs", "docs", "examples", "scripts", "tests")


def links() -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)", (ROOT / document).read_text()):
            if "://" not in target:
                yield document, target


@pytest.mark.parametrize(("document", "target"), list(links()))
def test_a_link_leads_somewhere(document: str, target: str) -> None:
    assert ((ROOT / document).parent / target).exists()


def test_the_example_of_a_module_and_its_tests_is_there() -> None:
    names = re.findall(r"`((?:aoti_serve|tests)/[\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(names) == 2
    assert all((ROOT / name).exists() for name in names)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("DTYPES", "aoti_serve/signature/tensors.py"),
        ("CASTABLE", "aoti_serve/signature/tensors.py"),
        ("GATEWAY_METRICS", "aoti_serve/cluster/metrics/definitions.py"),
        ("compares_answers", "aoti_serve/weights/rollout/plan.py"),
        ("check_outputs", "aoti_serve/weights/rollout/plan.py"),
        ("_ACCEPTED", "aoti_serve/protocol/elements.py"),
        ("GatewayConfig", "aoti_serve/config/gateway.py"),
        ("resources_of", "aoti_serve/cluster/deployments.py"),
        ("LASTING", "aoti_serve/launcher/cluster/applications.py"),
        ("check_run", "aoti_serve/model/acceptance.py"),
        ("Bounds", "aoti_serve/signature/golden/bounds.py"),
        ("check_weights", "aoti_serve/signature/constants.py"),
        ("place_of", "aoti_serve/weights/store/objects"),
        ("Device", "aoti_serve/model/device/cuda.py"),
        ("Disk", "aoti_serve/weights/store"),
        ("Remote", "aoti_serve/weights/store/objects"),
        ("InvalidWeights", "aoti_serve/errors"),
    ],
)
def test_a_name_that_contributing_gives_is_where_it_says(name: str, path: str) -> None:
    assert f"`{name}`" in (ROOT / "CONTRIBUTING.md").read_text()
    files = [ROOT / path] if path.endswith(".py") else (ROOT / path).glob("*.py")
    assert any(re.search(rf"^\s*(class |def |async def )?{name}\b", file.read_text(), re.M) for file in files)


def test_each_test_that_the_table_of_the_protocol_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/reference/protocol.md").read_text()))
    written = {name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert len(named) > 20
    assert named - written == set()


def test_every_script_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "scripts/README.md").read_text(), re.M))
    scripts = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix}
    assert explained == scripts


def test_the_architecture_names_every_room() -> None:
    found = CODE.search((ROOT / "docs/internals/architecture.md").read_text())
    assert found is not None
    rooms = {
        path.parent.relative_to(ROOT / "aoti_serve").as_posix() for path in (ROOT / "aoti_serve").rglob("*/__init__.py")
    }
    named = set(re.findall(r"(\w+)/", found[1]))
    assert {room.rpartition("/")[2] for room in rooms if room != "."} <= named
    assert named <= {path.name for path in ROOT.rglob("*") if path.is_dir() and ".venv" not in path.parts}


def named_pages() -> Iterator[tuple[str, str]]:
    """Each file of docs that a file of the repository names, as `docs/NAME.md` or `docs/ROOM/NAME.svg`."""
    files = [path for place in PLACES for path in (ROOT / place).rglob("*") if path.is_file() and path.suffix in TEXT]
    for file in [*files, *ROOT.glob("*.md"), *ROOT.glob("*.yml")]:
        for name in re.findall(r"(?<![\w/.-])docs/[a-z0-9/-]+\.(?:md|svg)\b", file.read_text(errors="ignore")):
            yield file.relative_to(ROOT).as_posix(), name


def test_every_page_that_is_named_anywhere_is_there() -> None:
    named = set(named_pages())
    assert len(named) > 50
    assert {(file, name) for file, name in named if not (ROOT / name).exists()} == set()


def test_the_site_shows_every_page() -> None:
    shown = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert shown == {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}


def test_each_promise_names_tests_that_exist() -> None:
    rows = [line for line in (ROOT / "docs/concepts/promises.md").read_text().splitlines() if line.startswith("| **P")]
    assert [re.search(r"P\d+", row)[0] for row in rows] == [f"P{number}" for number in range(1, 11)]  # type: ignore[index]
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}
    written = {name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert named - written == set()


def test_the_readme_fits_a_screen_or_two() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 6000
