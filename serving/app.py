"""The application: routes over one service, whose models load in the background while it already answers."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from serving import failures
from serving.middleware import Middleware
from serving.models import Models
from serving.routes import kserve, open_inference, operations, page, sagemaker
from serving.service import Service
from serving.settings import ServerSettings

logger = logging.getLogger(__name__)

CLOSING_S: Final = 2.0  # the server has waited for its requests before; SageMaker kills 30 s after SIGTERM


def create_app(settings: ServerSettings, models: Models | None = None) -> FastAPI:
    """The application; its lifespan loads the model in the background and, at the end, answers what it took.

    Args:
        settings: Port and host are not used here.
        models: That began to load before, to save time.
    """
    service = Service(settings, models or Models(settings))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.models.start()
        yield
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                await service.close()

    app = FastAPI(
        title="Kennel",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # the pages of docs load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        exception_handlers={HTTPException: failures.on_http_exception},
    )
    app.add_middleware(Middleware, metrics=service.metrics, log_requests=settings.log_requests)
    for room in (sagemaker, kserve, open_inference, page, operations):
        app.include_router(room.router(service))
    if settings.multi_model:
        app.include_router(sagemaker.multi_model_router(service))
    return app
