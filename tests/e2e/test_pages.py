"""Pages that a reader can do from top to bottom: every command as it stands there, and what it prints.

Blocks with a mark have a test of their own: the examples, the published encoder, Ray's own command.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.reader import Reader
from tests.pages import commands_of

FIRST_STEPS = "docs/tutorial/first-steps.md"
# In the order of the site; disk.md goes back to version 1, which eight later ones would push out of the store.
WITH_THE_DEMO = (
    "docs/tutorial/first-swap.md",
    "docs/guides/disk.md",
    FIRST_STEPS,
    "docs/tutorial/trainer.md",
    "docs/guides/acceptance.md",
    "docs/guides/checkpoints.md",
    "docs/guides/kubernetes.md",
    "docs/concepts/rollouts.md",
)
BY_THEMSELVES = (
    "docs/tutorial/your-model.md",
    "docs/guides/int8.md",
    "docs/guides/lengths.md",
    "docs/guides/processors.md",
    "docs/guides/serving.md",
)


@pytest.fixture(scope="module")
def demo(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader who has started the demo: `scripts/serve` does no more than install it before."""
    with reader_in(tmp_path_factory.mktemp("demo"), digits_dir) as reader:
        reader.paste(commands_of(FIRST_STEPS)[0])
        yield reader


@pytest.mark.parametrize("page", WITH_THE_DEMO)
def test_a_page_does_what_it_says_with_the_demo(demo: Reader, page: str) -> None:
    demo.paste("aoti-serve swap digits var/digits/v1.safetensors", "digits answers with")
    demo.follow(page)


@pytest.mark.parametrize("page", BY_THEMSELVES)
def test_a_page_does_what_it_says(digits_dir: Path, tmp_path: Path, page: str) -> None:
    with reader_in(tmp_path, digits_dir) as reader:
        reader.follow(page)


def reader_in(folder: Path, digits: Path) -> Reader:
    own = shutil.ignore_patterns("model.yaml")  # it has the paths of where the cache made it; the demo writes another
    shutil.copytree(digits, folder / "digits", ignore=own)
    return Reader(folder, folder / "digits")
