"""The Open Inference Protocol, version 2, which KServe and Triton's clients speak: tensors in, tensors out.

Source: Open Inference Protocol, "HTTP/REST"; its binary tensor data extension.
"""

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serving import openapi, tensors
from serving.errors import DeadlinePassed, InvalidInput, ModelNotFound, NotReady
from serving.failures import COMMON, documented, tell_not_ready
from serving.headers import shortened
from serving.model import Model
from serving.service import Service
from serving.tensors import JSON_LENGTH, Inference

EXTENSIONS: Final = ["binary_tensor_data"]


def router(service: Service) -> APIRouter:
    """The paths below /v2."""
    made = APIRouter(prefix="/v2")

    async def server() -> Response:
        return JSONResponse({"name": "kennel", "version": "1", "extensions": EXTENSIONS})

    async def live() -> Response:
        return JSONResponse({"live": True})

    async def ready() -> Response:
        try:
            service.models.check_ready()
        except NotReady as error:
            return tell_not_ready(error)
        return JSONResponse({"ready": True})

    async def metadata(name: str, version: str | None = None) -> Response:
        return JSONResponse(_describe(_find(service, name, version)))

    async def model_ready(name: str, version: str | None = None) -> Response:
        _find(service, name, version)
        return JSONResponse({"name": name, "ready": True})

    async def infer(name: str, request: Request, version: str | None = None) -> Response:
        _find(service, name, version)
        inference = Inference(_json_bytes(request.headers.get(JSON_LENGTH)))
        labels = await service.label(request, inference.read, {}, name)
        content, headers = inference.write(labels.answer, name, labels.model.version)
        return Response(content, headers=headers | labels.headers)

    plain, ready_or_not = documented(openapi.OBJECT), documented(openapi.OBJECT, NotReady)
    made.get("", summary="The server", responses=plain)(server)
    made.get("/health/live", summary="Whether it runs", responses=plain)(live)
    made.get("/health/ready", summary="Whether it can answer", responses=ready_or_not)(ready)
    one = documented(openapi.OBJECT, ModelNotFound, NotReady)
    inferred = documented(openapi.INFERRED, *COMMON, ModelNotFound, NotReady, DeadlinePassed)
    described: dict[str, Any] = {"response_class": Response, "openapi_extra": openapi.INFER, "responses": inferred}
    for path in ("/models/{name}", "/models/{name}/versions/{version}"):
        made.get(path, summary="Inputs and outputs", responses=one)(metadata)
        made.get(f"{path}/ready", summary="Whether it can answer", responses=one)(model_ready)
        made.post(f"{path}/infer", summary="Label pictures", **described)(infer)
    return made


def _find(service: Service, name: str, version: str | None) -> Model:
    model = service.models.require(name)
    if version is not None and version != model.version:
        raise ModelNotFound(f"model {shortened(name)} has no version {shortened(version)}, only {model.version}")
    return model


def _describe(model: Model) -> dict[str, object]:
    num_labels = len(model.manifest.labels)
    shapes = {
        name: [-1] if datatype == tensors.PICTURE else [-1, num_labels] for name, datatype in tensors.OUTPUTS.items()
    }
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": model.engine.name,
        "inputs": [{"name": tensors.INPUT, "datatype": tensors.PICTURE, "shape": [-1]}],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": shapes[name]} for name, datatype in tensors.OUTPUTS.items()
        ],
    }


def _json_bytes(value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) < 12):
        raise InvalidInput(f"{JSON_LENGTH} is {shortened(value)}, expected a number of bytes")
    return int(value)
