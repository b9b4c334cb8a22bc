"""For people: the page at `/`, and the card that it shows."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from serving import openapi
from serving.errors import NotReady
from serving.failures import documented
from serving.page import read_page
from serving.service import Service


def router(service: Service) -> APIRouter:
    """The paths of the page."""
    made = APIRouter()

    async def page() -> Response:
        content, headers = read_page()
        return Response(content, media_type="text/html", headers=headers)

    async def card() -> Response:
        model = service.models.require()
        manifest = model.manifest
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

    made.get("/", include_in_schema=False)(page)
    described = documented(openapi.CARD, NotReady)
    made.get("/card", summary="What the model is", responses=described)(card)
    return made
