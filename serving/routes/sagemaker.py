"""SageMaker's contract: `/ping`, `/invocations`, `/execution-parameters`, and the models of a multi-model endpoint.

Sources: SageMaker Developer Guide, "Custom Inference Code with Hosting Services", "How Containers Serve Requests"
(batch transform) and "Build your own container for SageMaker AI multi-model endpoints".
"""

from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving import openapi
from serving.bodies import read_body
from serving.errors import (
    BundleError,
    DeadlinePassed,
    InvalidInput,
    ModelExists,
    ModelNotFound,
    NotAcceptable,
    NotReady,
    OutOfMemory,
)
from serving.failures import COMMON, documented, tell_not_ready
from serving.headers import preferred
from serving.models import Models
from serving.readers import select_reader
from serving.service import Service
from serving.writers import WRITERS

LABELLING: Final = (*COMMON, NotAcceptable, NotReady, DeadlinePassed)
MAX_LOAD_BYTES: Final = 10_000
PAGE_SIZE: Final = 100
"""Models in an answer of GET /models."""


class LoadRequest(BaseModel):
    """What the platform sends to have a model loaded."""

    model_config = ConfigDict(extra="ignore")

    model_name: Annotated[str, Field(min_length=1, max_length=1024, pattern="^[^/]+$")]
    """Part of the paths by which it is asked for."""
    url: Annotated[str, Field(min_length=1, max_length=4096)]
    """A path, in spite of its name."""


def router(service: Service) -> APIRouter:
    """The paths of every SageMaker container."""
    made = APIRouter()

    async def ping() -> Response:
        try:
            service.models.check_ready()
        except NotReady as error:
            return tell_not_ready(error)
        return Response()

    async def execution_parameters() -> Response:
        return JSONResponse(service.settings.execution_parameters)

    async def invocations(request: Request) -> Response:
        return await invoke(service, request)

    ready = documented({"description": "A model can answer"}, NotReady)
    made.get("/ping", summary="Readiness", responses=ready, response_class=Response)(ping)
    made.get("/ping/", include_in_schema=False)(ping)
    made.head("/ping", include_in_schema=False)(ping)  # as some load balancers ask
    told = documented(openapi.EXECUTION_PARAMETERS)
    made.get("/execution-parameters", summary="What to send at once", responses=told)(execution_parameters)
    answers = documented(openapi.ANSWER, *LABELLING)
    described: dict[str, Any] = {
        "summary": "Label pictures",
        "response_class": Response,
        "openapi_extra": openapi.INVOCATION,
    }
    made.post("/invocations", responses=answers, **described)(invocations)
    return made


def multi_model_router(service: Service) -> APIRouter:
    """What the platform asks of a multi-model endpoint beside that."""
    made = APIRouter()
    models = service.models

    async def load(request: Request) -> Response:
        wanted = await _read_load_request(request, service.settings.body_timeout_s)
        model = await models.load(wanted.model_name, Path(wanted.url))
        return JSONResponse(_describe(models, model.name))

    async def list_models(next_page_token: str = "") -> Response:
        names = sorted(models.names)
        page = [name for name in names if name > next_page_token][:PAGE_SIZE]
        answer: dict[str, object] = {"models": [_describe(models, name) for name in page]}
        if page and page[-1] != names[-1]:
            answer["nextPageToken"] = page[-1]
        return JSONResponse(answer)

    async def get_model(name: str) -> Response:
        return JSONResponse(_describe(models, name))

    async def unload(name: str) -> Response:
        await models.unload(name)
        service.metrics.forget(name)
        return JSONResponse({"status": f"{name} is unloaded"})

    async def invoke_model(name: str, request: Request) -> Response:
        return await invoke(service, request, name)

    loading = documented(openapi.OBJECT, InvalidInput, ModelExists, BundleError, OutOfMemory)
    listing, one = documented(openapi.OBJECT), documented(openapi.OBJECT, ModelNotFound)
    made.post("/models", summary="Load a model", responses=loading, openapi_extra=openapi.LOAD)(load)
    made.get("/models", summary="Models that are loaded", responses=listing)(list_models)
    made.get("/models/{name}", summary="One of them", responses=one)(get_model)
    made.delete("/models/{name}", summary="Unload it", responses=one)(unload)
    answers = documented(openapi.ANSWER, *LABELLING, ModelNotFound)
    described: dict[str, Any] = {
        "summary": "Label pictures by it",
        "response_class": Response,
        "openapi_extra": openapi.INVOCATION,
    }
    made.post("/models/{name}/invoke", responses=answers, **described)(invoke_model)
    return made


async def invoke(service: Service, request: Request, name: str | None = None) -> Response:
    """Label the pictures of a request by the model called `name`, and answer in the form it asks for."""
    read, parameters = select_reader(request.headers.get("content-type"))
    writer = preferred(WRITERS, ",".join(request.headers.getlist("accept")))
    labels = await service.label(request, read, parameters, name)
    return Response(writer.write(labels.answer), media_type=writer.content_type, headers=labels.headers)


def _describe(models: Models, name: str) -> dict[str, str]:
    return {"modelName": name, "modelUrl": str(models.path_of(name))}


async def _read_load_request(request: Request, timeout_s: float) -> LoadRequest:
    data = await read_body(request, MAX_LOAD_BYTES, timeout_s)
    try:
        return LoadRequest.model_validate_json(data)
    except ValidationError as error:
        raise InvalidInput(
            'the body does not say which model to load, expected {"model_name": NAME, "url": FOLDER}'
        ) from error
