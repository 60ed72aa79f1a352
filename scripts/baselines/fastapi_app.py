"""FastAPI and uvicorn, eager PyTorch in the handler, no batching.

uvicorn fastapi_app:app --port N
"""

from __future__ import annotations

from eager import Eager, decoded
from fastapi import FastAPI, Request, Response

app = FastAPI()
model = Eager()


@app.post("/")
async def infer(request: Request) -> Response:
    answer = model(decoded(await request.body()))
    return Response(answer.tobytes(), media_type="application/octet-stream")
