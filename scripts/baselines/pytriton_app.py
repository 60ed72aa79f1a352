"""Triton through nvidia-pytriton, with dynamic batching.

python pytriton_app.py --port N [--delay-ms N] [--copies N] [--max-batch-size N]
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable

import numpy as np
from eager import WIDTH, Eager, Rows
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def instance() -> Callable[..., list[Rows]]:
    """Triton calls each in a thread of its own."""
    model = Eager()

    @batch  # type: ignore[untyped-decorator]
    def infer(x: Rows) -> list[Rows]:
        return [model(x)]

    made: Callable[..., list[Rows]] = infer
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--max-batch-size", type=int, default=64)
    options = parser.parse_args()
    config = TritonConfig(http_address="127.0.0.1", http_port=options.port, allow_grpc=False, allow_metrics=False)
    batcher = DynamicBatcher(max_queue_delay_microseconds=round(options.delay_ms * 1e3))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the Triton server stays behind
    with Triton(config=config) as triton:
        triton.bind(
            model_name="mlp",
            infer_func=[instance() for _ in range(options.copies)],
            inputs=[Tensor(name="x", dtype=np.float32, shape=(WIDTH,))],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(WIDTH,))],
            config=ModelConfig(max_batch_size=options.max_batch_size, batcher=batcher),
        )
        triton.serve()


if __name__ == "__main__":
    main()
