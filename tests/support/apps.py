"""The application in this process: no port, no second Python, but the real lifespan and the real loading."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

DEADLINE_S = 60.0


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` whose start-up is over and whose model is ready."""
    # ASGITransport does not run the lifespan.
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        asyncio.timeout(DEADLINE_S),
        httpx.AsyncClient(transport=transport, base_url="http://kennel") as client,
    ):
        while (await client.get("/ping")).status_code != 200:  # noqa: ASYNC110 - as any client has to find out
            await asyncio.sleep(0.01)
        yield client
