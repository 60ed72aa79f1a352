"""The methods of one gateway, by the names that gRPC calls them. What is not here is answered UNIMPLEMENTED."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aoti_serve import __version__
from aoti_serve.config import GatewayConfig
from aoti_serve.errors import UnknownModel
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.grpc.answers import Answer, admitted, admitted_stream, streamed, unary
from aoti_serve.gateway.grpc.call import GrpcCall, Method
from aoti_serve.gateway.grpc.inference import GrpcInference
from aoti_serve.gateway.grpc.statistics import model_statistics
from aoti_serve.gateway.request_log import RequestLog
from aoti_serve.protocol.grpc.messages import decode_message, encode_message
from aoti_serve.protocol.messages import server_metadata, without_parameters

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
OPEN = ("ServerLive", "ServerReady", "ModelReady")  # to probes, which carry no token
Values = dict[str, Any]


def grpc_methods(plane: DataPlane, access: Access, config: GatewayConfig) -> Mapping[str, Method]:
    """What is served: the protocol's methods, those of Triton's that stock clients call, and the health check."""
    log = RequestLog(config.access_log)
    inference, small = GrpcInference(plane, config, log), _SmallMethods(plane)
    methods = {name: _small(name, answer) for name, answer in small.by_name.items()} | {
        "ModelInfer": inference.infer,
        "ModelStatistics": model_statistics(plane),
    }
    return {
        f"/{SERVICE}/ModelStreamInfer": streamed(admitted_stream(inference.stream, access)),
        f"/{HEALTH}/Check": unary("HealthCheck", _small("HealthCheck", small.health), log),
        **{
            f"/{SERVICE}/{name}": unary(name, answer if name in OPEN else admitted(answer, access), log)
            for name, answer in methods.items()
        },
    }


def _small(name: str, answer: Callable[[Values], Values]) -> Answer:
    """A method whose messages are rows of `protocol.grpc.schema`, called `<name>Request` and `<name>Response`."""

    async def small(call: GrpcCall) -> bytes:
        return encode_message(f"{name}Response", answer(decode_message(f"{name}Request", await call.message())))

    return small


class _SmallMethods:
    """All but inference: values in, values out."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self.by_name: Mapping[str, Callable[[Values], Values]] = {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": plane.reason_not_ready is None},
            "ServerMetadata": lambda _: server_metadata(__version__),
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": lambda asked: {"config": plane.model(asked["name"]).triton_config(asked["version"] or None)},
            "RepositoryIndex": lambda asked: {"models": plane.index(ready_only=asked["ready"])},
        }

    def _model_metadata(self, asked: Values) -> Values:
        return without_parameters(self._plane.model(asked["name"]).metadata(asked["version"] or None))

    def health(self, asked: Values) -> Values:
        """Of the whole server, of the inference service, or of a model. Raises UnknownModel."""
        name = asked["service"]
        if name in ("", SERVICE):
            serving = self._plane.reason_not_ready is None
        elif name in self._plane.names:
            serving = self._plane.model(name).ready
        else:
            raise UnknownModel(name=name, known=[SERVICE, *self._plane.names])
        return {"status": "SERVING" if serving else "NOT_SERVING"}

    def _model_ready(self, asked: Values) -> Values:
        served = self._plane.model(asked["name"])
        served.check_version(asked["version"] or None)
        return {"ready": served.ready}
