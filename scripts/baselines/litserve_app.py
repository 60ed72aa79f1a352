"""LitServe with batching, as it ships; or with its fast queue (`fast_queue=True`) really in use.

    python litserve_app.py --port N [--repaired] [--copies N] [--max-batch-size N]

LitServe 0.2.19 has a fast queue over ZeroMQ and never uses it: `LitServer` passes its choice under a name that
`TransportConfig` does not have, the two addresses change places on the way (issue 751), and its first process cannot
close what it has never opened, so it does not end. --repaired mends all three.
"""

# No postponed annotations here: LitServe reads that of `decode_request` to know how a body comes.
import argparse
import signal
from typing import Annotated, Any

import litserve
import numpy as np
from eager import Eager, Rows, decoded
from fastapi import Body, Response
from litserve.transport import factory

BINARY = "application/octet-stream"


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One request's rows are one element of a batch. A worker has one batch at a time."""

    def setup(self, device: Any) -> None:
        self.model = Eager()

    def decode_request(self, request: Annotated[bytes, Body(media_type=BINARY)]) -> Rows:
        return decoded(request)

    def batch(self, inputs: list[Rows]) -> Rows:
        self.ends = np.cumsum([len(rows) for rows in inputs])
        return np.concatenate(inputs)

    def predict(self, x: Rows) -> Rows:
        answers: Rows = self.model(x)
        return answers

    def unbatch(self, output: Rows) -> list[Rows]:
        return np.split(output, self.ends[:-1])

    def encode_response(self, output: Rows) -> Response:
        return Response(output.tobytes(), media_type=BINARY)


class Transport(factory.ZMQTransport):  # type: ignore[misc]
    """May be closed where it was not used."""

    def close(self, **options: Any) -> None:
        if self._zmq:
            super().close(**options)


def transport(config: Any) -> Transport:
    broker = factory.Broker()
    broker.start()
    config.frontend_address, config.backend_address = broker.frontend_address, broker.backend_address
    return Transport(backend_address=broker.backend_address, frontend_address=broker.frontend_address)


def repair(server: Any) -> None:
    factory._create_zmq_transport = transport
    server.transport_config.transport_type = "zmq"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--repaired", action="store_true")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--max-batch-size", type=int, default=64)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else its workers stay behind
    api = Api(max_batch_size=options.max_batch_size, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=options.copies, fast_queue=True)
    if options.repaired:
        repair(server)
    server.run(
        host="127.0.0.1",
        port=options.port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
