import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from serving.app import create_app
from serving.bundle import Bundle
from serving.settings import ServerSettings
from tests.support.apps import connected
from tests.support.bundles import write_bundle
from tests.support.servers import Server, serving

pytest.register_assert_rewrite("tests.serving.engine_suite")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny bundle that nobody changes."""
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def own_bundle(bundle: Bundle, tmp_path: Path) -> Path:
    """The folder of a copy of it, to be broken."""
    return shutil.copytree(bundle.folder, tmp_path / "own-bundle")


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server process that is ready."""
    with serving(bundle.folder, tmp_path_factory.mktemp("server") / "log") as running:
        yield running.wait_until_ready()


@pytest.fixture
def app(bundle: Bundle) -> FastAPI:
    return create_app(ServerSettings(model=bundle.folder, threads=1, max_payload_mb=1))


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` in this process, once its model is ready."""
    async with connected(app) as ready:
        yield ready
