"""`ModelInfer` and `ModelStreamInfer`: the hot path, over the same data plane as HTTP's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import replace

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AotiServeError
from aoti_serve.gateway.client_facts import defect_text
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.figures.counted import CountedRequest
from aoti_serve.gateway.figures.model_figures import GRPC
from aoti_serve.gateway.grpc.calls import Context, identify, timeout_of
from aoti_serve.gateway.in_flight import Share
from aoti_serve.gateway.offload import LARGE_HEAD_BYTES, Offload
from aoti_serve.gateway.request_checker import CheckedRequest, RequestChecker
from aoti_serve.protocol.grpc.request import CutRequest, cut_request, raw_arrays
from aoti_serve.protocol.grpc.response import encode_infer_response, encode_stream_failure, encode_stream_response
from aoti_serve.protocol.messages import InferResponse

logger = logging.getLogger("ray.serve")
STREAM_AHEAD = 64  # requests of one stream that are answered at once


class GrpcInference:
    """Answers the inference requests of one gateway that come over gRPC."""

    def __init__(self, plane: DataPlane, config: GatewayConfig) -> None:
        self._plane = plane
        self._config = config
        self._offload = Offload()

    async def infer(self, message: bytes, context: Context) -> bytes:
        """`ModelInfer`. Raises an AotiServeError."""
        with self._plane.figures.request(GRPC) as counted, self._plane.door, Share(self._plane.budget) as share:
            share.grow(len(message))
            request = cut_request(message, self._config)
            return encode_infer_response(await self._answer(request, context, counted))

    async def stream(self, messages: AsyncIterable[bytes], context: Context) -> AsyncIterator[bytes]:
        """`ModelStreamInfer`: runs requests as they come, answers in their order; an error ends none but its own."""
        identify(context)
        waiting: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(STREAM_AHEAD)
        reading = asyncio.create_task(self._read_stream(messages, context, waiting))
        try:
            while (answer := await waiting.get()) is not None:
                yield await answer
        finally:
            reading.cancel()
            while not waiting.empty():
                if (left := waiting.get_nowait()) is not None:
                    left.cancel()

    async def _read_stream(
        self, messages: AsyncIterable[bytes], context: Context, waiting: asyncio.Queue[asyncio.Task[bytes] | None]
    ) -> None:
        try:
            async for message in messages:
                await waiting.put(asyncio.create_task(self._stream_answer(message, context)))
        finally:
            await waiting.put(None)

    async def _stream_answer(self, message: bytes, context: Context) -> bytes:
        identity = None
        try:
            with self._plane.figures.request(GRPC) as counted, self._plane.door, Share(self._plane.budget) as share:
                share.grow(len(message))
                request = cut_request(message, self._config)
                identity = request.id
                return encode_stream_response(await self._answer(request, context, counted))
        except AotiServeError as error:
            return encode_stream_failure(str(error), identity)
        except Exception as error:
            logger.exception("a request of a stream failed (id %s)", identity)
            return encode_stream_failure(defect_text(error), identity)

    async def _answer(self, request: CutRequest, context: Context, counted: CountedRequest) -> InferResponse:
        counted.model = request.model_name
        served = self._plane.model(request.model_name)
        checked = await self._read(served.checker, request)
        arrays = raw_arrays(checked.head, request.raw)
        timeout = timeout_of(context, checked.head.timeout)
        response = counted.response = await served.infer(checked, arrays, request.model_version, timeout)
        return replace(response, id=request.id)

    async def _read(self, checker: RequestChecker, request: CutRequest) -> CheckedRequest:
        if len(request.head) <= LARGE_HEAD_BYTES:
            return checker.read_protobuf(request.head)
        return await self._offload.run(checker.read_protobuf, request.head)
