"""The same messages by protobuf itself: Triton's, as its client has them, and those of gRPC's health check."""

from __future__ import annotations

from typing import Any

from google.protobuf import (  # type: ignore[import-untyped, unused-ignore]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2, service_pb2

# https://github.com/grpc/grpc/blob/master/src/proto/grpc/health/v1/health.proto
HEALTH = """
name: "health.proto" package: "grpc.health.v1" syntax: "proto3"
message_type {
  name: "HealthCheckRequest"
  field { name: "service" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
}
message_type {
  name: "HealthCheckResponse"
  field {
    name: "status" number: 1 label: LABEL_OPTIONAL type: TYPE_ENUM
    type_name: ".grpc.health.v1.HealthCheckResponse.ServingStatus"
  }
  enum_type {
    name: "ServingStatus"
    value { name: "UNKNOWN" number: 0 }
    value { name: "SERVING" number: 1 }
    value { name: "NOT_SERVING" number: 2 }
    value { name: "SERVICE_UNKNOWN" number: 3 }
  }
}
"""


def _health() -> dict[str, Any]:
    """Classes in a pool of their own: a process knows a file by its name once only."""
    pool, file = descriptor_pool.DescriptorPool(), descriptor_pb2.FileDescriptorProto()
    text_format.Parse(HEALTH, file)
    pool.Add(file)
    found = [pool.FindMessageTypeByName(f"{file.package}.{message.name}") for message in file.message_type]
    return {message.name: message_factory.GetMessageClass(message) for message in found}


_HEALTH = _health()
_NESTED = {
    "TensorMetadata": service_pb2.ModelMetadataResponse.TensorMetadata,
    "ModelIndex": service_pb2.RepositoryIndexResponse.ModelIndex,
    "Latest": model_config_pb2.ModelVersionPolicy.Latest,
    "All": model_config_pb2.ModelVersionPolicy.All,
    "Specific": model_config_pb2.ModelVersionPolicy.Specific,
}


def message_class(kind: str) -> Any:
    """protobuf's class of the message that `schema` calls `kind`."""
    found = _HEALTH.get(kind) or _NESTED.get(kind) or getattr(service_pb2, kind, None)
    return found or getattr(model_config_pb2, kind)


def parsed(kind: str, data: bytes) -> Any | None:
    """The message; None if protobuf refuses it."""
    try:
        return message_class(kind).FromString(data)
    except DecodeError:
        return None
