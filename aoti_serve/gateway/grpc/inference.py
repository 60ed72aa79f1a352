"""`ModelInfer` and `ModelStreamInfer`: the hot path, over the same data plane as HTTP's."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AotiServeError
from aoti_serve.gateway.client_facts import defect_text
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.figures.counted import CountedRequest
from aoti_serve.gateway.figures.model_figures import GRPC
from aoti_serve.gateway.grpc.answers import GRPC_METHOD
from aoti_serve.gateway.grpc.call import GrpcCall
from aoti_serve.gateway.grpc.messages import GrpcMessage
from aoti_serve.gateway.grpc.statuses import INTERNAL, OK
from aoti_serve.gateway.grpc.turns import Turn, Turns
from aoti_serve.gateway.offload import LARGE_HEAD_BYTES, Offload
from aoti_serve.gateway.request_checker import CheckedRequest, RequestChecker
from aoti_serve.gateway.request_log import RequestLog, RequestNote
from aoti_serve.gateway.tracing import adopt_trace
from aoti_serve.protocol.grpc.request import CutRequest, cut_request, raw_arrays
from aoti_serve.protocol.grpc.response import encode_infer_response, encode_stream_failure, encode_stream_response
from aoti_serve.protocol.messages import InferResponse

logger = logging.getLogger("ray.serve")


class GrpcInference:
    """Answers the inference requests of one gateway that come over gRPC."""

    def __init__(self, plane: DataPlane, config: GatewayConfig, log: RequestLog) -> None:
        self._plane = plane
        self._config = config
        self._log = log
        self._offload = Offload()

    async def infer(self, call: GrpcCall) -> bytes:
        """`ModelInfer`. Raises an AotiServeError."""
        with self._plane.figures.request(GRPC) as counted, self._plane.door:
            request = cut_request(await call.message(), self._config)
            return encode_infer_response(await self._answer(request, call, counted, call.began))

    def stream(self, call: GrpcCall) -> AsyncIterator[bytes]:
        """`ModelStreamInfer`: runs requests as they come, answers in their order; an error ends none but its own.

        Raises an AotiServeError where the messages themselves cannot be read.
        """
        return Turns(call, self._stream_answer).answers()

    async def _stream_answer(self, message: GrpcMessage, call: GrpcCall, turn: Turn) -> bytes:
        identity = None
        with RequestNote(self._log, call.client, GRPC_METHOD, "ModelStreamInfer", call.identity) as note:
            try:
                with self._plane.figures.request(GRPC) as counted, self._plane.door:
                    request = cut_request(await call.content(message), self._config)
                    identity = request.id
                    answer = encode_stream_response(await self._answer(request, call, counted, message.began))
                    turn.hold(answer)
            except AotiServeError as error:
                note.error, note.status = error, error.grpc_status
                return encode_stream_failure(str(error), identity)
            except Exception as error:
                note.status = INTERNAL.name
                logger.exception("a request of a stream failed (x-request-id %s)", call.identity)
                return encode_stream_failure(defect_text(error), identity)
            note.status = OK.name
            return answer

    async def _answer(
        self, request: CutRequest, call: GrpcCall, counted: CountedRequest, since: float
    ) -> InferResponse:
        adopt_trace(call.metadata.get("traceparent"), call.metadata.get("tracestate"))
        counted.model = request.model_name
        served = self._plane.model(request.model_name)
        checked = await self._read(served.checker, request)
        arrays = raw_arrays(checked.head, request.raw)
        left = call.left(checked.head.timeout, since, request.model_name)
        rows = served.infer(checked, arrays, request.model_version, left, call.routing_key)
        response = counted.response = await rows
        return replace(response, id=request.id)

    async def _read(self, checker: RequestChecker, request: CutRequest) -> CheckedRequest:
        if len(request.head) <= LARGE_HEAD_BYTES:
            return checker.read_protobuf(request.head)
        return await self._offload.run(checker.read_protobuf, request.head)
