from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aoti_serve.config import BatchingConfig, GatewayConfig
from tests.unit.gateway.http.gateway import Gateway, running

MAX_BODY = 2**20
MAX_QUEUED = 8


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """One row per run, eight may wait, bodies of 1 MiB."""
    batching = BatchingConfig(max_batch_size=1, max_queued_rows=MAX_QUEUED, max_queue_wait_ms=None)
    async with running(GatewayConfig(max_body_bytes=MAX_BODY, max_json_bytes=MAX_BODY // 2), batching) as made:
        yield made
