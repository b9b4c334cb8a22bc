"""KServe's v1 protocol, which is TensorFlow Serving's REST API: models by name, `instances` in, `predictions` out.

Source: KServe documentation, "V1 Protocol".
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serving import openapi
from serving.errors import DeadlinePassed, ModelNotFound, NotReady
from serving.failures import COMMON, documented
from serving.readers import read_json
from serving.service import Service
from serving.writers import WRITERS


def router(service: Service) -> APIRouter:
    """The paths below /v1."""
    made = APIRouter(prefix="/v1")

    async def list_models() -> Response:
        return JSONResponse({"models": service.models.names})

    async def get_model(name: str) -> Response:
        service.models.require(name)
        return JSONResponse({"name": name, "ready": True})

    async def predict(name: str, request: Request) -> Response:
        labels = await service.label(request, read_json, {}, name)
        writer = WRITERS[0]
        return Response(writer.write(labels.answer), media_type=writer.content_type, headers=labels.headers)

    listing, one = documented(openapi.OBJECT), documented(openapi.OBJECT, ModelNotFound, NotReady)
    made.get("/models", summary="Models that can answer", responses=listing)(list_models)
    made.get("/models/{name}", summary="Whether one of them can", responses=one)(get_model)
    answers = documented(openapi.JSON_ANSWER, *COMMON, ModelNotFound, NotReady, DeadlinePassed)
    described: dict[str, Any] = {
        "summary": "Label pictures",
        "response_class": Response,
        "openapi_extra": openapi.PREDICT,
    }
    made.post("/models/{name}:predict", responses=answers, **described)(predict)
    return made
