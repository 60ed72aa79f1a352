"""gRPC calls as awaitables over bytes: ids, deadlines, and errors as statuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import NoReturn
from urllib.parse import unquote

import grpc

from aoti_serve.errors import AotiServeError
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.client_facts import defect_text, identity_from, patience_from
from aoti_serve.gateway.request_log import RequestLog, RequestNote

logger = logging.getLogger("ray.serve")
Context = grpc.aio.ServicerContext[bytes, bytes]
Answers = Callable[[bytes, Context], Awaitable[bytes]]
StreamAnswers = Callable[[AsyncIterable[bytes], Context], AsyncIterator[bytes]]
ID_KEY = "x-request-id"
TIMEOUT_KEY = "x-request-timeout-seconds"
TOKEN_KEY = "authorization"
GRPC_METHOD = "gRPC"  # in the place of HTTP's, in the log


def unary(name: str, answer: Answers, log: RequestLog) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A method of this name that answers one message with one, and has its lines in the log."""

    async def call(message: bytes, context: Context) -> bytes:
        with RequestNote(log, context.peer(), GRPC_METHOD, name, identify(context)) as note:
            try:
                answered = await answer(message, context)
            except AotiServeError as error:
                note.error, note.status = error, error.grpc_status
                await context.abort(status_of(error), str(error))
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:
                note.status = grpc.StatusCode.INTERNAL.name
                logger.exception("a call failed (x-request-id %s)", note.identity)
                await _abort_for_defect(context, error)
            note.status = grpc.StatusCode.OK.name
            return answered

    return grpc.unary_unary_rpc_method_handler(call)


def admitted(answer: Answers, access: Access) -> Answers:
    """The method for those who send an inference token, if one is asked for."""

    async def call(message: bytes, context: Context) -> bytes:
        access.check_inference(metadata_of(context).get(TOKEN_KEY), _address_of(context))
        return await answer(message, context)

    return call if access.asks_for_inference else answer


def admitted_stream(answers: StreamAnswers, access: Access) -> StreamAnswers:
    """As `admitted`, for a method that answers a stream with one."""

    async def call(messages: AsyncIterable[bytes], context: Context) -> AsyncIterator[bytes]:
        try:
            access.check_inference(metadata_of(context).get(TOKEN_KEY), _address_of(context))
        except AotiServeError as error:
            identify(context)
            await context.abort(status_of(error), str(error))
        async for answer in answers(messages, context):
            yield answer

    return call if access.asks_for_inference else answers


def _address_of(context: Context) -> str:
    """The client's address; gRPC has it as `ipv4:127.0.0.1:80` or `ipv6:%5B::1%5D:80`."""
    return unquote(context.peer()).partition(":")[2].rpartition(":")[0].strip("[]")


def status_of(error: AotiServeError) -> grpc.StatusCode:
    return grpc.StatusCode[error.grpc_status]


async def _abort_for_defect(context: Context, error: Exception) -> NoReturn:
    await context.abort(grpc.StatusCode.INTERNAL, defect_text(error))


def identify(context: Context) -> str:
    """Send the client's own id back, if it is short and printable, else a unique one; returns it."""
    identity = identity_from(metadata_of(context).get(ID_KEY))
    context.set_trailing_metadata(((ID_KEY, identity),))
    return identity


def timeout_of(context: Context, metadata: Mapping[str, str], parameter: float | None) -> float | None:
    """The client's timeout in seconds: the shortest of its deadline, the request's parameter and the metadata's."""
    given = metadata.get(TIMEOUT_KEY)
    limits = [context.time_remaining(), parameter, None if given is None else patience_from(given)]
    return min((limit for limit in limits if limit is not None), default=None)


def metadata_of(context: Context) -> dict[str, str]:
    """The client's metadata that is text; of several with one name the first. Each call costs gRPC some 10 us."""
    sent = reversed(tuple(context.invocation_metadata() or ()))
    return {key: value for key, value in sent if isinstance(value, str)}
