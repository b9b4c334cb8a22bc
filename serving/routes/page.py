"""For people: the page at `/`, the card that it shows, and where the model looked."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serving import openapi
from serving.bundle import InputSpec
from serving.engines.activation_map import Maps
from serving.errors import DeadlinePassed, EngineError, InvalidInput, MapNotFound, NotReady
from serving.failures import COMMON, documented
from serving.headers import shortened
from serving.page import read_page
from serving.readers import select_reader
from serving.service import Service, headers_of


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
                "has_activation_map": model.maps.are_there,
            }
        )

    async def activation_map(request: Request) -> Response:
        read, parameters = select_reader(request.headers.get("content-type"))
        index = _parse_label(request.query_params.get("label"))
        model, mapped = await service.activation_map(request, read, parameters, index)
        named = {"label": model.manifest.labels[mapped.index], "index": mapped.index}
        answer = named | _scaled(mapped.values) | _seen(model.manifest.input)
        return JSONResponse(answer, headers=headers_of(model, [mapped]))

    made.get("/", include_in_schema=False)(page)
    described = documented(openapi.CARD, NotReady)
    made.get("/card", summary="What the model is", responses=described)(card)
    mapped = documented(openapi.ACTIVATION_MAP, *COMMON, MapNotFound, NotReady, DeadlinePassed)
    explained: dict[str, Any] = {"summary": "Where the model looked", "openapi_extra": openapi.MAP_REQUEST}
    made.post("/activation-map", responses=mapped, **explained)(activation_map)
    return made


def _parse_label(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidInput(f"label is {shortened(text)}, expected the index of a label, a whole number from 0")
    return int(text)


def _scaled(values: Maps) -> dict[str, object]:
    """A map (h, w) for a page to paint: 0 is its least, 1 its most, and `range` what these were, in logits."""
    if not np.isfinite(values).all():
        raise EngineError("the engine answered an activation map that is not finite")
    least, most = float(values.min()), float(values.max())
    scaled = (values.astype(np.float64) - least) / ((most - least) or 1.0)
    return {"rows": scaled.round(4).tolist(), "range": {"least": least, "most": most}}


def _seen(spec: InputSpec) -> dict[str, object]:
    """What the network saw of a picture, whatever its size; `serving.preprocess.resize_and_crop` cuts it so."""
    return {"seen": {"width": spec.width / spec.resize_size, "height": spec.height / spec.resize_size}}
