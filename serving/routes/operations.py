"""For whoever runs the server: `/metrics`, and on the management port `/reload`."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serving import openapi
from serving.failures import documented
from serving.service import Service


def router(service: Service) -> APIRouter:
    """The paths of operation."""
    made = APIRouter()

    async def metrics(request: Request) -> Response:
        content, content_type = service.metrics.write(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": content_type})

    async def reload(request: Request) -> Response:
        """The port is the guard: it is bound to loopback, and nobody else has its number on their side of the wire."""
        port = (request.scope.get("server") or (None, None))[1]
        if port is None or port != service.settings.management_port:
            raise HTTPException(404)
        model = await service.models.reload()
        return JSONResponse({"model": model.name, "version": model.version})

    made.get("/metrics", summary="Measurements, for Prometheus", responses=documented(openapi.METRICS))(metrics)
    made.post("/reload", include_in_schema=False)(reload)
    return made
