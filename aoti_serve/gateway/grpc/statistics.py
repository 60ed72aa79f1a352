"""`ModelStatistics` of Triton's service."""

from __future__ import annotations

from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.figures.exchange import all_statistics
from aoti_serve.gateway.grpc.answers import Answer
from aoti_serve.gateway.grpc.call import GrpcCall
from aoti_serve.protocol.grpc.messages import decode_message, encode_message


def model_statistics(plane: DataPlane) -> Answer:
    """Of one model, or of all if none is named. Raises UnknownModel, UnknownVersion or Unavailable."""

    async def answer(call: GrpcCall) -> bytes:
        asked = decode_message("ModelStatisticsRequest", await call.message())
        if asked["name"]:
            rows = await plane.model(asked["name"]).statistics.messages(asked["version"] or None)
        else:
            rows = await all_statistics(model.statistics for model in plane.models())
        return encode_message("ModelStatisticsResponse", {"model_stats": rows})

    return answer
