"""HTTP: SageMaker's `/ping` and `/invocations`. The only file that knows which error is which status code."""

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serving import openapi
from serving.batching import Batcher
from serving.bundle import InputSpec
from serving.engines import Logits
from serving.errors import (
    CapacityError,
    InternalError,
    InvalidInput,
    KennelError,
    NotAcceptable,
    NotReady,
    PayloadTooLarge,
    QueueFull,
    UnsupportedContentType,
)
from serving.headers import CUSTOM_ATTRIBUTES, check_encoding, parse_attributes, parse_top_k, preferred
from serving.loader import Loader
from serving.machine import num_cpus
from serving.readers import Body, Decode, Pictures, Reader, select_reader
from serving.settings import ServerSettings
from serving.writers import WRITERS, Answer

logger = logging.getLogger(__name__)

STATUS_CODES: Final[dict[type[KennelError], int]] = {
    InvalidInput: 400,
    NotAcceptable: 406,
    PayloadTooLarge: 413,
    UnsupportedContentType: 415,
    QueueFull: 503,
    NotReady: 503,
}
"""Of the errors whose message a caller may read; anything else is 500 and stays in the log."""
CALLER_GONE: Final = 499  # nginx's code for it; nobody is there to read it
RETRY_AFTER_S: Final = 1
CLOSING_S: Final = 2.0  # the server has waited for its requests before; SageMaker kills 30 s after SIGTERM
MAX_MESSAGE_LENGTH: Final = 400  # SageMaker hands callers 2 kB of an error
SMALL_BYTES: Final = 100_000
"""Bodies up to this size are taken apart at once: handing one to a thread would take longer."""
INFERENCE_ID: Final = "X-Amzn-SageMaker-Inference-Id"


def create_app(settings: ServerSettings, loader: Loader | None = None) -> FastAPI:
    """The application; its lifespan loads the model in the background and, at the end, answers what it took.

    Args:
        settings: Port and host are not used here.
        loader: One that was started before, to save time.
    """
    loader = loader or Loader(settings)
    batcher = Batcher(
        loader.infer,
        loader.thread,
        num_decoders=num_cpus(),
        max_batch_size=settings.max_batch_size,
        max_queue_size=settings.max_queue_size,
        max_queue_bytes=settings.max_queue_bytes,
    )
    routes = _Routes(settings, loader, batcher)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loader.start()
        yield
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                await batcher.close()
                await asyncio.wrap_future(loader.close())

    app = FastAPI(
        title="Kennel",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # the pages of docs load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        exception_handlers={HTTPException: _on_http_exception},
    )
    ready = {"description": "A model can answer"}
    for path in ("/ping", "/ping/"):
        app.add_api_route(
            path,
            routes.ping,
            methods=["GET"],
            summary="Readiness",
            response_class=Response,
            responses={200: ready, **_refusals(NotReady)},
            include_in_schema=path == "/ping",
        )
    app.add_api_route(
        "/execution-parameters",
        routes.execution_parameters,
        methods=["GET"],
        summary="What a batch transform should send at once",
        response_class=JSONResponse,
        responses={200: openapi.EXECUTION_PARAMETERS},
    )
    app.add_api_route(
        "/invocations",
        routes.invocations,
        methods=["POST"],
        summary="Label pictures",
        response_class=Response,
        responses={200: openapi.ANSWER, **_refusals(*STATUS_CODES, InternalError)},
        openapi_extra=openapi.INVOCATION,
    )
    return app


class _Routes:
    def __init__(self, settings: ServerSettings, loader: Loader, batcher: Batcher) -> None:
        self._settings = settings
        self._loader = loader
        self._batcher = batcher

    async def ping(self) -> Response:
        """Readiness: 200 when a model can answer, else 503 with the reason."""
        try:
            self._loader.require()
        except NotReady as error:
            return _error_response(STATUS_CODES[NotReady], error)
        return Response()

    async def execution_parameters(self) -> Response:
        """What a batch transform should send at once."""
        return JSONResponse(self._settings.execution_parameters)

    async def invocations(self, request: Request) -> Response:
        """Label pictures."""
        try:
            return await self._predict(request)
        except (ClientDisconnect, _CallerGoneError):
            logger.info("%d the caller hung up before the answer", CALLER_GONE)
            return Response(status_code=CALLER_GONE)
        except asyncio.CancelledError:  # the server stops, and this request took longer than it may wait
            return _answer_error(request, NotReady("the server stopped before there was an answer"))
        except Exception as error:
            return _answer_error(request, error)

    async def _predict(self, request: Request) -> Response:
        headers = request.headers
        check_encoding(headers.get("content-encoding"))
        read, parameters = select_reader(headers.get("content-type"))
        writer = preferred(WRITERS, ",".join(headers.getlist("accept")))
        attributes = parse_attributes(headers.get(CUSTOM_ATTRIBUTES))
        top_k = parse_top_k(attributes, self._settings.top_k)
        manifest = self._loader.require().bundle.manifest
        size_bytes = _declared_bytes(request, self._settings.max_payload_bytes)
        with self._batcher.slot(size_bytes):
            data = await _read_body(request, size_bytes, self._settings.body_timeout_s)
            async with _while_caller_waits(request):
                pictures = await self._take_apart(read, Body(data, parameters, attributes, self._settings.pixel_range))
                del data  # many that wait would hold 25 MB each
                is_single = pictures.is_single
                logits = await self._infer(pictures, manifest.input)
        answer = Answer(logits, manifest.labels, top_k, manifest.calibration.temperature, is_single)
        return Response(writer.write(answer), media_type=writer.content_type)

    async def _take_apart(self, read: Reader, body: Body) -> Pictures:
        """Large bodies in a decoder's thread: base64 of 25 MB would keep everybody else waiting."""
        return read(body) if len(body.data) <= SMALL_BYTES else await self._batcher.decode(read, body)

    async def _infer(self, pictures: Pictures, spec: InputSpec) -> Logits:
        """Logits (N, K); of many pictures, two batches are decoded ahead."""
        ahead = asyncio.Semaphore(2 * self._settings.max_batch_size)

        async def answer(decode: Decode) -> Logits:
            async with ahead:
                return await self._batcher.infer(await self._batcher.decode(decode, spec))

        return np.stack(await _all([answer(decode) for decode in pictures.decoders]))


def _declared_bytes(request: Request, max_bytes: int) -> int:
    """Length of the body; where none is declared, the most that is accepted.

    Raises:
        PayloadTooLarge: Over `max_bytes`.
    """
    declared = int(request.headers.get("content-length", max_bytes))
    if declared > max_bytes:
        raise _too_large(max_bytes)
    return declared


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body has more than the {max_bytes} bytes that are accepted")


async def _read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """The body, refused as soon as too much of it arrived.

    Raises:
        PayloadTooLarge: Over `max_bytes`.
        InvalidInput: It did not arrive in `timeout_s`; a slot may not be held by trickling.
        ClientDisconnect: The caller hung up.
    """
    chunks: list[bytes] = []
    size_bytes = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size_bytes += len(chunk)
                if size_bytes > max_bytes:
                    raise _too_large(max_bytes)
                chunks.append(chunk)
    except TimeoutError as error:
        raise InvalidInput(f"only {size_bytes} bytes of the request body arrived in {timeout_s:g} s") from error
    return b"".join(chunks)


async def _all(answers: Sequence[Coroutine[Any, Any, Logits]]) -> list[Logits]:
    """All answers in order, or the first error; then nobody computes the others any more."""
    if len(answers) == 1:
        return [await answers[0]]
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


class _CallerGoneError(Exception):
    """The connection closed before there was an answer."""


@asynccontextmanager
async def _while_caller_waits(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the caller hangs up, so that its picture costs nobody else time.

    Raises:
        _CallerGoneError: It did.
    """
    task = asyncio.current_task()
    gone = asyncio.ensure_future(request.receive())  # after the body, the only message left is the disconnect
    if task is not None:
        gone.add_done_callback(lambda watcher: None if watcher.cancelled() else task.cancel())
    try:
        yield
    except asyncio.CancelledError as error:
        if not gone.done() or task is None or task.uncancel() > 0:
            raise
        raise _CallerGoneError from error
    finally:
        gone.cancel()


def _refusals(*kinds: type[KennelError]) -> dict[int | str, dict[str, object]]:
    """The error answers of a route, for its documentation."""
    reasons: dict[int, list[str]] = {}
    for kind in kinds:
        reasons.setdefault(STATUS_CODES.get(kind, 500), []).append(kind.__doc__ or kind.__name__)
    return {status_code: openapi.refusal(*sentences) for status_code, sentences in reasons.items()}


def _answer_error(request: Request, error: Exception) -> Response:
    status_code = STATUS_CODES.get(type(error)) if isinstance(error, KennelError) else None
    if status_code is None:
        request_id = _request_id(request)
        logger.error("500 request %s: %s", request_id, error, exc_info=error)
        apology = InternalError(f"the server failed on this request; its log has the reason under request {request_id}")
        return _error_response(500, apology)
    # Refusals of load come by thousands and are no failures, so no ERROR each.
    level = logging.WARNING if isinstance(error, CapacityError) else logging.INFO
    logger.log(level, "%d %s", status_code, error)
    return _error_response(status_code, error)


def _error_response(status_code: int, error: KennelError | Exception) -> Response:
    word = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, CapacityError) else None
    return JSONResponse({"error": word, "message": _limited(str(error))}, status_code, headers)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What routing refuses: unknown paths and wrong methods."""
    if not isinstance(error, HTTPException):
        raise error
    path, method = _limited(request.url.path), _limited(request.method)
    if error.status_code == 404:
        word, message = "not_found", f"there is nothing at {path}, expected POST /invocations or GET /ping"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        word, message = "method_not_allowed", f"{method} is not answered at {path}, expected {allowed}"
    else:
        word, message = "refused", str(error.detail)
    logger.info("%d %s", error.status_code, message)
    return JSONResponse({"error": word, "message": _limited(message)}, error.status_code, dict(error.headers or {}))


def _request_id(request: Request) -> str:
    """The caller's own id where it is a plain one, for the log."""
    given = request.headers.get(INFERENCE_ID, "")
    return given if re.fullmatch(r"[\w.:-]{1,64}", given, re.ASCII) else secrets.token_hex(8)


def _limited(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 1] + "…"
