"""The Python of the README, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import aoti_serve

README = Path(aoti_serve.__file__).parents[1] / "README.md"


def test_the_eight_lines_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    (found,) = names["container"].run({"input": names["torch"].ones(1, 4)}).values()
    assert found.shape == (1, 2)
    assert "tensor" in capsys.readouterr().out
