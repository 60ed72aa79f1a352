"""The messages beside inference, field by field as their .proto files write them.

From grpc_service.proto and model_config.proto of https://github.com/triton-inference-server/common, and from
https://github.com/grpc/grpc/blob/master/src/proto/grpc/health/v1/health.proto. Left out are the fields that are never
filled here; a reader passes over those.
"""

from __future__ import annotations

from typing import NamedTuple

from aoti_serve.protocol.triton import DATA_TYPES

# Values are numbered from 0.
ENUMS = {
    "DataType": DATA_TYPES,
    "ServingStatus": ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"),
}


class MessageField(NamedTuple):
    """A field; `type` is a scalar's as protobuf calls it, an enum or another message."""

    name: str
    number: int
    type: str
    repeated: bool


def _message(*lines: str) -> tuple[MessageField, ...]:
    found = []
    for line in lines:
        *label, kind, name, _, number = line.split()
        found.append(MessageField(name, int(number), kind, label == ["repeated"]))
    return tuple(found)


MESSAGES = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": _message("bool live = 1"),
    "ServerReadyRequest": (),
    "ServerReadyResponse": _message("bool ready = 1"),
    "ModelReadyRequest": _message("string name = 1", "string version = 2"),
    "ModelReadyResponse": _message("bool ready = 1"),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": _message("string name = 1", "string version = 2", "repeated string extensions = 3"),
    "ModelMetadataRequest": _message("string name = 1", "string version = 2"),
    "ModelMetadataResponse": _message(
        "string name = 1",
        "repeated string versions = 2",
        "string platform = 3",
        "repeated TensorMetadata inputs = 4",
        "repeated TensorMetadata outputs = 5",
    ),
    "TensorMetadata": _message("string name = 1", "string datatype = 2", "repeated int64 shape = 3"),
    "ModelConfigRequest": _message("string name = 1", "string version = 2"),
    "ModelConfigResponse": _message("ModelConfig config = 1"),
    "ModelConfig": _message(
        "string name = 1",
        "string platform = 2",
        "ModelVersionPolicy version_policy = 3",
        "int32 max_batch_size = 4",
        "repeated ModelInput input = 5",
        "repeated ModelOutput output = 6",
        "ModelDynamicBatching dynamic_batching = 11",
        "string backend = 17",
    ),
    "ModelVersionPolicy": _message("Latest latest = 1", "All all = 2", "Specific specific = 3"),
    "Latest": _message("uint32 num_versions = 1"),
    "All": (),
    "Specific": _message("repeated int64 versions = 1"),
    "ModelInput": _message("string name = 1", "DataType data_type = 2", "repeated int64 dims = 4"),
    "ModelOutput": _message("string name = 1", "DataType data_type = 2", "repeated int64 dims = 3"),
    "ModelDynamicBatching": _message(
        "repeated int32 preferred_batch_size = 1",
        "uint64 max_queue_delay_microseconds = 2",
        "bool preserve_ordering = 3",
        "uint64 priority_levels = 4",
        "uint64 default_priority_level = 5",
    ),
    "ModelStatisticsRequest": _message("string name = 1", "string version = 2"),
    "ModelStatisticsResponse": _message("repeated ModelStatistics model_stats = 1"),
    "ModelStatistics": _message(
        "string name = 1",
        "string version = 2",
        "uint64 last_inference = 3",
        "uint64 inference_count = 4",
        "uint64 execution_count = 5",
        "InferStatistics inference_stats = 6",
        "repeated InferBatchStatistics batch_stats = 7",
    ),
    "InferStatistics": _message(
        "StatisticDuration success = 1",
        "StatisticDuration fail = 2",
        "StatisticDuration queue = 3",
        "StatisticDuration compute_input = 4",
        "StatisticDuration compute_infer = 5",
        "StatisticDuration compute_output = 6",
        "StatisticDuration cache_hit = 7",
        "StatisticDuration cache_miss = 8",
    ),
    "StatisticDuration": _message("uint64 count = 1", "uint64 ns = 2"),
    "InferBatchStatistics": _message(
        "uint64 batch_size = 1",
        "StatisticDuration compute_input = 2",
        "StatisticDuration compute_infer = 3",
        "StatisticDuration compute_output = 4",
    ),
    "RepositoryIndexRequest": _message("string repository_name = 1", "bool ready = 2"),
    "RepositoryIndexResponse": _message("repeated ModelIndex models = 1"),
    "ModelIndex": _message("string name = 1", "string version = 2", "string state = 3", "string reason = 4"),
    "HealthCheckRequest": _message("string service = 1"),
    "HealthCheckResponse": _message("ServingStatus status = 1"),
}
