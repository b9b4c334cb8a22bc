"""Around every request: who it is, what it met, how long it took. Errors become answers here."""

import asyncio
import logging
import time
from typing import Final

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import failures, logs
from serving.bodies import CallerGoneError
from serving.errors import KennelError, NotReady
from serving.metrics import Metrics

logger = logging.getLogger(__name__)

INFERENCE_ID: Final = b"x-amzn-sagemaker-inference-id"
REQUEST_ID: Final = b"x-request-id"
TRACEPARENT: Final = b"traceparent"


class Middleware:
    """ASGI in, ASGI out.

    Args:
        app: What is inside.
        metrics: Told of every request.
        log_requests: Whether each request has a line in the log, not only those refused.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, log_requests: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given_id = headers.get(INFERENCE_ID) or headers.get(REQUEST_ID) or b""
        context = logs.make_context(given_id.decode("latin-1"), headers.get(TRACEPARENT, b"").decode("latin-1"))
        token = logs.current.set(context)
        started = time.perf_counter()
        status_code = 0

        async def send_named(message: Message) -> None:
            nonlocal status_code
            if message["type"] == "http.response.start":
                status_code = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID, context.request_id.encode())]
            await send(message)

        try:
            await self._answer(scope, receive, send_named)
        finally:
            self._record(scope, status_code, time.perf_counter() - started)
            logs.current.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False

        async def send_once(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        try:
            await self._app(scope, receive, send_once)
        except asyncio.CancelledError:  # the server stops, and this request took longer than it may wait
            if not is_answered:
                await self._refusal(NotReady("the server stopped before there was an answer"))(scope, receive, send)
        except Exception as error:
            if is_answered:
                raise
            await self._refusal(error)(scope, receive, send)

    def _refusal(self, error: Exception) -> Response:
        if isinstance(error, ClientDisconnect | CallerGoneError):
            logger.info("%d the caller hung up before the answer", failures.CALLER_GONE)
            self._metrics.refusals.labels("caller_gone").inc()
            return Response(status_code=failures.CALLER_GONE)
        word = failures.word_of(error) if isinstance(error, KennelError) else "internal_error"
        self._metrics.refusals.labels(word).inc()
        return failures.respond(error)

    def _record(self, scope: Scope, status_code: int, duration_s: float) -> None:
        route = getattr(scope.get("route"), "path", "other")  # a path that is none could be anything, and as often
        self._metrics.requests.labels(route, status_code).inc()
        self._metrics.request_seconds.labels(route).observe(duration_s)
        if self._log_requests:
            fields = {"route": route, "status": status_code, "duration_ms": round(1000 * duration_s, 2)}
            text = f"{status_code} {scope['method']} {route} {fields['duration_ms']} ms"
            logger.info("%s", text, extra={"fields": fields})
