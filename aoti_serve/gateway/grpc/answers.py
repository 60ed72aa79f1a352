"""Methods made of awaitables: their ids, tokens, statuses, and lines in the log."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from aoti_serve.errors import AotiServeError
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.client_facts import defect_text
from aoti_serve.gateway.grpc.call import GrpcCall, Method
from aoti_serve.gateway.grpc.statuses import INTERNAL, OK, status_of
from aoti_serve.gateway.request_log import RequestLog, RequestNote

logger = logging.getLogger("ray.serve")
Answer = Callable[[GrpcCall], Awaitable[bytes]]
StreamAnswers = Callable[[GrpcCall], AsyncIterator[bytes]]
TOKEN_KEY = "authorization"
GRPC_METHOD = "gRPC"  # in the place of HTTP's, in the log


def unary(name: str, answer: Answer, log: RequestLog) -> Method:
    """A method of this name that answers one message with one, and has its lines in the log."""

    async def run(call: GrpcCall) -> None:
        with RequestNote(log, call.client, GRPC_METHOD, name, call.identity) as note:
            try:
                answered = await answer(call)
            except AotiServeError as error:
                note.error, note.status = error, error.grpc_status
                error.__traceback__ = error.__context__ = None  # a cycle, in which the message would outlive the call
                call.finish(status_of(error), str(error))
            except Exception as error:
                note.status = INTERNAL.name
                logger.exception("a call failed (x-request-id %s)", note.identity)
                call.finish(INTERNAL, defect_text(error))
            else:
                note.status = OK.name
                await call.respond(answered)

    return Method(run)


def streamed(answers: StreamAnswers) -> Method:
    """A method that answers a stream with one. Its requests have their own lines in the log."""

    async def run(call: GrpcCall) -> None:
        try:
            async for answer in answers(call):
                await call.send(answer)
        except AotiServeError as error:
            call.finish(status_of(error), str(error))
        except Exception as error:
            logger.exception("a stream failed (x-request-id %s)", call.identity)
            call.finish(INTERNAL, defect_text(error))
        else:
            call.finish(OK)

    return Method(run, streams=True)


def admitted(answer: Answer, access: Access) -> Answer:
    """The method for those who send an inference token, if one is asked for."""

    async def admitted_answer(call: GrpcCall) -> bytes:
        access.check_inference(call.metadata.get(TOKEN_KEY), call.client[0])
        return await answer(call)

    return admitted_answer if access.asks_for_inference else answer


def admitted_stream(answers: StreamAnswers, access: Access) -> StreamAnswers:
    """As `admitted`, for a method that answers a stream with one."""

    async def admitted_answers(call: GrpcCall) -> AsyncIterator[bytes]:
        access.check_inference(call.metadata.get(TOKEN_KEY), call.client[0])
        async for answer in answers(call):
            yield answer

    return admitted_answers if access.asks_for_inference else answers
