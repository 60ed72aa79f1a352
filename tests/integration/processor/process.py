"""The process of a processor without Ray: prints where it listens, and answers until it is ended.

python -m tests.integration.processor.process '{"class": "tests.processors:Words"}'
"""

from __future__ import annotations

import asyncio
import json
import sys

from aoti_serve.cluster.processor.actor import ProcessorRunner
from aoti_serve.config import ProcessorConfig
from aoti_serve.link.server import LinkServer


async def main() -> None:
    runner = ProcessorRunner("m", ProcessorConfig.model_validate_json(sys.argv[1]))
    await runner.start()
    link = LinkServer(runner.answer)
    await link.open()
    print(json.dumps({"path": link.path, "key": link.key.hex()}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
