"""One run: inputs to the device, the model on a runner's stream, outputs by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from aoti_serve.model.arguments import named_outputs
from aoti_serve.model.device.cuda import Device
from aoti_serve.model.loading import IntraOpThreads
from aoti_serve.model.variants import Variants
from aoti_serve.signature.signature import Signature

Outputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class DeviceRun:
    """Runs any runtime of one package on one device, with so many `threads`; None leaves them as they are."""

    device: Device
    signature: Signature
    threads: int | None

    def of(self, runtime: Variants, inputs: list[torch.Tensor]) -> Outputs:
        """Run checked inputs, in the calling thread; the list is emptied."""
        with IntraOpThreads(self.threads), self.device.runner() as stream:
            inputs[:] = [self.device.take(tensor) for tensor in inputs]
            outputs = runtime.run(inputs, stream)
        self.device.give(outputs)
        return named_outputs(outputs, self.signature)
