"""FastAPI and uvicorn, eager PyTorch, no batching: in the handler at `/`, in one of BASELINE_THREADS at `/threads`.

uvicorn fastapi_app:app --port N [--workers N]
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from eager import Eager, decoded
from fastapi import FastAPI, Request, Response

BINARY = "application/octet-stream"

app = FastAPI()
model = Eager()
threads = ThreadPoolExecutor(int(os.environ.get("BASELINE_THREADS", "1")))


@app.post("/")
async def infer(request: Request) -> Response:
    answer = model(decoded(await request.body()))
    return Response(answer.tobytes(), media_type=BINARY)


@app.post("/threads")
async def infer_in_thread(request: Request) -> Response:
    rows = decoded(await request.body())
    answer = await asyncio.get_running_loop().run_in_executor(threads, model, rows)
    return Response(answer.tobytes(), media_type=BINARY)
