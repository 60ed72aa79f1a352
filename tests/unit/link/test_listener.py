"""Where the socket of a process lies; what becomes of those of killed ones is in tests/unit/test_folders.py."""

from __future__ import annotations

import stat
from pathlib import Path

from aoti_serve.link.listener import PREFIX
from tests.unit.link.test_link import served


async def test_only_its_user_may_enter_its_folder_which_goes_when_it_closes() -> None:
    async with served() as (server, _):
        path = Path(server.path)
        assert path.is_socket()
        assert path.parent.name.startswith(PREFIX)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()
