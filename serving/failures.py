"""Which error is which status code. The only file that knows."""

import logging
import re
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serving import logs, openapi
from serving.errors import (
    BundleError,
    CapacityError,
    DeadlinePassed,
    InternalError,
    InvalidInput,
    KennelError,
    MapNotFound,
    ModelExists,
    ModelNotFound,
    NotAcceptable,
    NotReady,
    OutOfMemory,
    PayloadTooLarge,
    QueueFull,
    UnsupportedContentType,
)
from serving.headers import shortened

logger = logging.getLogger(__name__)

STATUS_CODES: Final[dict[type[KennelError], int]] = {
    InvalidInput: 400,
    BundleError: 400,
    ModelNotFound: 404,
    MapNotFound: 404,
    NotAcceptable: 406,
    ModelExists: 409,
    PayloadTooLarge: 413,
    UnsupportedContentType: 415,
    QueueFull: 503,
    NotReady: 503,
    DeadlinePassed: 503,
    OutOfMemory: 507,
}
"""Of the errors whose message a caller may read; anything else is 500 and stays in the log.

507 and 409 are what the platform of multi-model endpoints acts on. A bundle meets a caller only where it is the caller
who named it.
"""
Documented = dict[int | str, dict[str, Any]]
"""Answers of a route by status code, as FastAPI's `responses` has them."""
CALLER_GONE: Final = 499  # nginx's code for it; nobody is there to read it
RETRY_AFTER_S: Final = 1
ELSEWHERE: Final = (
    (re.compile("/reload"), "; POST /reload is answered at --management-port alone, on the server's own machine"),
    (re.compile("/models(/[^/]+(/invoke)?)?"), "; /models is there where the server was started with --multi-model"),
)
"""Paths that are there in another server, or at another port."""
MAX_MESSAGE_LENGTH: Final = 400  # SageMaker hands callers 2 kB of an error
COMMON: Final = (InvalidInput, PayloadTooLarge, UnsupportedContentType, QueueFull, OutOfMemory, InternalError)
"""What can go wrong with any picture."""


def documented(answer: dict[str, Any], *kinds: type[KennelError]) -> Documented:
    """What a route answers, for its documentation: `answer`, or one of the errors `kinds`."""
    reasons: dict[int, list[str]] = {}
    for kind in kinds:
        reasons.setdefault(STATUS_CODES.get(kind, 500), []).append(kind.__doc__ or kind.__name__)
    return {200: answer, **{status_code: openapi.refusal(*sentences) for status_code, sentences in reasons.items()}}


def respond(error: Exception) -> Response:
    """What a caller is told of an error; the log is told more."""
    status_code = STATUS_CODES.get(type(error)) if isinstance(error, KennelError) else None
    if status_code is None:
        request_id = logs.request_id()
        logger.error("500 request %s: %s", request_id, error, exc_info=error)
        apology = InternalError(f"the server failed on this request; its log has the reason under request {request_id}")
        return tell(500, apology)
    # Refusals of load come by thousands and are no failures, so no ERROR each.
    level = logging.WARNING if isinstance(error, CapacityError) else logging.INFO
    logger.log(level, "%d %s", status_code, error)
    return tell(status_code, error)


def tell(status_code: int, error: Exception) -> Response:
    """An error as JSON: its kind in a word, and its sentence."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, CapacityError) else None
    return JSONResponse({"error": word_of(error), "message": limited(str(error))}, status_code, headers)


def tell_not_ready(error: NotReady) -> Response:
    """To whoever asks every second whether the model is ready: no line of log each time."""
    return tell(STATUS_CODES[NotReady], error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What routing refuses: unknown paths and wrong methods."""
    if not isinstance(error, HTTPException):
        raise error
    path, method = shortened(request.url.path), shortened(request.method)
    if error.status_code == 404:
        expected = "POST /invocations, GET /ping, or / in a browser"
        hint = next((hint for pattern, hint in ELSEWHERE if pattern.fullmatch(request.url.path)), "")
        word, message = "not_found", f"there is nothing at {path}, expected {expected}{hint}"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        word, message = "method_not_allowed", f"{method} is not answered at {path}, expected {allowed}"
    else:
        word, message = "refused", str(error.detail)
    logger.info("%d %s", error.status_code, message)
    return JSONResponse({"error": word, "message": limited(message)}, error.status_code, dict(error.headers or {}))


def word_of(error: Exception) -> str:
    """`QueueFull` -> `queue_full`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()


def limited(text: str) -> str:
    """As much of a text as a caller is told."""
    return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 1] + "…"
