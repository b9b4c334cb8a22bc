"""HTTP: SageMaker's `/ping` and `/invocations`. The only file that knows which error is which status code."""

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serving import openapi
from serving.batching import Batcher
from serving.bodies import CallerGoneError, declared_bytes, read_body, while_caller_waits
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
from serving.labelling import Labeller, server_timing
from serving.loader import Loader
from serving.machine import num_cpus
from serving.page import read_page
from serving.readers import Body, select_reader
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
Documented = dict[int | str, dict[str, Any]]
"""Answers of a route by status code, as FastAPI's `responses` has them."""
CALLER_GONE: Final = 499  # nginx's code for it; nobody is there to read it
RETRY_AFTER_S: Final = 1
CLOSING_S: Final = 2.0  # the server has waited for its requests before; SageMaker kills 30 s after SIGTERM
MAX_MESSAGE_LENGTH: Final = 400  # SageMaker hands callers 2 kB of an error
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
    _add_routes(app, routes)
    return app


def _add_routes(app: FastAPI, routes: "_Routes") -> None:
    ready: Documented = {200: {"description": "A model can answer"}, **_refusals(NotReady)}
    answers: Documented = {200: openapi.ANSWER, **_refusals(*STATUS_CODES, InternalError)}
    told: Documented = {200: openapi.EXECUTION_PARAMETERS}
    card: Documented = {200: openapi.CARD, **_refusals(NotReady)}
    get, post = partial(app.add_api_route, methods=["GET"]), partial(app.add_api_route, methods=["POST"])
    get("/ping", routes.ping, summary="Readiness", responses=ready, response_class=Response)
    get("/ping/", routes.ping, include_in_schema=False)
    get("/execution-parameters", routes.execution_parameters, summary="What to send at once", responses=told)
    get("/card", routes.card, summary="What the model is", responses=card)
    get("/", routes.page, include_in_schema=False)
    post(
        "/invocations",
        routes.invocations,
        summary="Label pictures",
        response_class=Response,
        responses=answers,
        openapi_extra=openapi.INVOCATION,
    )


class _Routes:
    def __init__(self, settings: ServerSettings, loader: Loader, batcher: Batcher) -> None:
        self._settings = settings
        self._loader = loader
        self._batcher = batcher
        self._labeller = Labeller(batcher, settings.max_batch_size)

    async def ping(self) -> Response:
        """Readiness: 200 when a model can answer, else 503 with the reason."""
        try:
            self._loader.require()
        except NotReady as error:
            return _error_response(STATUS_CODES[NotReady], error)
        return Response()

    async def page(self) -> Response:
        """The page for people."""
        content, headers = read_page()
        return Response(content, media_type="text/html", headers=headers)

    async def card(self) -> Response:
        """What the model is."""
        try:
            model = self._loader.require()
        except NotReady as error:
            return _error_response(STATUS_CODES[NotReady], error)
        manifest = model.bundle.manifest
        measured = manifest.metrics.engines.get(model.engine.name)
        return JSONResponse(
            {
                "architecture": manifest.architecture,
                "labels": manifest.labels,
                "test_accuracy": measured.test_accuracy if measured else manifest.metrics.test_accuracy,
                "calibration_error": manifest.calibration.ece_after,
                "width": manifest.input.width,
                "height": manifest.input.height,
                "engine": model.engine.name,
                "created": manifest.created,
            }
        )

    async def execution_parameters(self) -> Response:
        """What a batch transform should send at once."""
        return JSONResponse(self._settings.execution_parameters)

    async def invocations(self, request: Request) -> Response:
        """Label pictures."""
        try:
            return await self._predict(request)
        except (ClientDisconnect, CallerGoneError):
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
        size_bytes = declared_bytes(request, self._settings.max_payload_bytes)
        with self._batcher.slot(size_bytes):
            data = await read_body(request, size_bytes, self._settings.body_timeout_s)
            async with while_caller_waits(request):
                body = Body(data, parameters, attributes, self._settings.pixel_range)
                pictures = await self._labeller.take_apart(read, body)
                answered = await self._labeller.label(pictures, manifest.input)
        logits = np.stack([one.logits for one in answered])
        answer = Answer(logits, manifest.labels, top_k, manifest.calibration.temperature, pictures.is_single)
        timing = {"Server-Timing": server_timing(answered)}
        return Response(writer.write(answer), media_type=writer.content_type, headers=timing)


def _refusals(*kinds: type[KennelError]) -> Documented:
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
        word, message = (
            "not_found",
            f"there is nothing at {path}, expected POST /invocations, GET /ping, or / in a browser",
        )
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
