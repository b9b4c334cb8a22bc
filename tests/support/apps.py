"""The application in this process: no port, no second Python, but the real lifespan and the real loading."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

DEADLINE_S = 60.0

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]


def client_at(app: FastAPI, base_url: str = "http://kennel") -> httpx.AsyncClient:
    """A client of `app`, which somebody else starts: ASGITransport does not run the lifespan."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url)


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` whose start-up is over and whose model is ready."""
    async with app.router.lifespan_context(app), asyncio.timeout(DEADLINE_S), client_at(app) as client:
        while (await client.get("/ping")).status_code != 200:  # noqa: ASYNC110 - as any client has to find out
            await asyncio.sleep(0.01)
        yield client


async def post_messages(app: FastAPI, receive: Receive) -> list[int]:
    """Send a picture over bare ASGI messages, as a server hands them on; returns the status codes that came back.

    Args:
        app: That runs.
        receive: What the application awaits to get the next message, `http.disconnect` too.
    """
    codes: list[int] = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/invocations",
        "raw_path": b"/invocations",
        "query_string": b"",
        "headers": [(b"content-type", b"image/jpeg")],
        "http_version": "1.1",
        "scheme": "http",
    }

    async def send(message: Any) -> None:
        if "status" in message:
            codes.append(message["status"])

    await app(scope, receive, send)
    return codes
