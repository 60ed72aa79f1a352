"""LitServe with batching, as it ships.

python litserve_app.py --port N
"""

import argparse
import signal
from typing import Annotated, Any

import litserve
import numpy as np
from eager import Eager, Rows, decoded
from fastapi import Body, Response

BINARY = "application/octet-stream"


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One request, one row."""

    def setup(self, device: Any) -> None:
        self.model = Eager()

    def decode_request(self, request: Annotated[bytes, Body(media_type=BINARY)]) -> Rows:
        row: Rows = decoded(request)[0]
        return row

    def batch(self, inputs: list[Rows]) -> Rows:
        return np.stack(inputs)

    def predict(self, x: Rows) -> Rows:
        answers: Rows = self.model(x)
        return answers

    def unbatch(self, output: Rows) -> list[Rows]:
        return list(output)

    def encode_response(self, output: Rows) -> Response:
        return Response(output.tobytes(), media_type=BINARY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else its workers stay behind
    api = Api(max_batch_size=64, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=parser.parse_args().port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
