"""The original sentence encoder behind FastAPI and uvicorn, without batching.

uvicorn encoder_fastapi_app:app --port N
"""

from __future__ import annotations

from encoder_original import Original
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = Original()


class Asked(BaseModel):
    sentences: list[str]


@app.post("/")
async def infer(asked: Asked) -> list[list[float]]:
    return model(asked.sentences)
