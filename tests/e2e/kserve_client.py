"""KServe's clients, in an environment of their own: ask a server of digits, and print what they heard as JSON.

python kserve_client.py HTTP_URL GRPC_ADDRESS IMAGES.npy
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

MODEL = "digits"


def request(*, binary: bool) -> InferRequest:
    images = np.load(sys.argv[3])
    given = InferInput("image", list(images.shape), "FP32")
    given.set_data_from_numpy(images, binary_data=binary)
    parameters = {"binary_data_output": True} if binary else None
    return InferRequest(MODEL, [given], request_id="seven", parameters=parameters)


def heard(response: Any) -> dict[str, Any]:
    (output,) = response.outputs
    return {
        "id": response.id,
        "model_version": response.model_version,
        "logits": np.asarray(output.as_numpy(), np.float64).tolist(),
    }


async def over_rest(url: str) -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        states = [
            await client.is_server_live(url),
            await client.is_server_ready(url),
            await client.is_model_ready(url, MODEL),
        ]
        answers = {
            form: heard(await client.infer(url, request(binary=form == "binary"), model_name=MODEL))
            for form in ("JSON", "binary")
        }
    return {"states": states, "answers": answers}


async def over_grpc(address: str) -> dict[str, Any]:
    async with InferenceGRPCClient(address) as client:
        states = [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready(MODEL)]
        answers = {form: heard(await client.infer(request(binary=form == "raw"))) for form in ("typed", "raw")}
    return {"states": states, "answers": answers}


async def main() -> None:
    url, address = sys.argv[1:3]
    print(json.dumps({"REST": await over_rest(url), "gRPC": await over_grpc(address)}))


if __name__ == "__main__":
    asyncio.run(main())
