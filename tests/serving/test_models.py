"""A server of many models, as SageMaker drives one, and a model that is changed while the server answers."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.app import create_app
from serving.bundle import Bundle
from serving.errors import ModelNotFound, OutOfMemory
from serving.model import Model
from serving.models import Models
from serving.settings import ServerSettings
from tests.serving.test_batching import Held, invoke, until
from tests.support import images
from tests.support.apps import client_at, connected
from tests.support.bundles import pack, write_bundle

pytestmark = pytest.mark.anyio

MANAGEMENT_PORT = 9001
MANAGEMENT = f"http://127.0.0.1:{MANAGEMENT_PORT}"
HEADERS = {"Content-Type": "image/jpeg", "Accept": "application/x-npy"}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that answers otherwise."""
    return write_bundle(tmp_path_factory.mktemp("other"), seed=9)


@pytest.fixture
async def platform() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server of many models, none of which is loaded."""
    async with connected(create_app(ServerSettings(multi_model=True, threads=1))) as client:
        yield client


async def load(client: httpx.AsyncClient, name: str, path: Path) -> httpx.Response:
    return await client.post("/models", json={"model_name": name, "url": str(path)})


async def logits(client: httpx.AsyncClient, path: str = "/invocations") -> NDArray[np.float32]:
    response = await client.post(path, content=images.jpeg(), headers=HEADERS)
    assert response.status_code == 200, response.text
    return np.asarray(np.load(io.BytesIO(response.content)))


async def test_without_a_model_it_is_healthy_and_lists_none(platform: httpx.AsyncClient) -> None:
    assert (await platform.get("/ping")).status_code == 200
    assert (await platform.get("/models")).json() == {"models": []}


async def test_models_are_loaded_described_asked_and_unloaded(
    platform: httpx.AsyncClient, bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    archive = pack(other.folder, tmp_path / "model.tar.gz")
    one = {"modelName": "m-1", "modelUrl": str(bundle.folder)}
    two = {"modelName": "m-2", "modelUrl": str(archive)}
    assert [(await load(platform, "m-2", archive)).json(), (await load(platform, "m-1", bundle.folder)).json()] == [
        two,
        one,
    ]
    assert (await platform.get("/models")).json() == {"models": [one, two]}
    assert (await platform.get("/models/m-2")).json() == two
    answers = await asyncio.gather(*(logits(platform, f"/models/m-{1 + step % 2}/invoke") for step in range(8)))
    assert (
        len({answer.tobytes() for answer in answers[::2]}) == len({answer.tobytes() for answer in answers[1::2]}) == 1
    )
    assert (answers[0] != answers[1]).any()
    assert (await platform.delete("/models/m-1")).status_code == 200
    assert (await platform.get("/models")).json() == {"models": [two]}
    gone = await platform.post("/models/m-1/invoke", content=images.jpeg(), headers=HEADERS)
    assert (gone.status_code, gone.json()["error"]) == (404, "model_not_found")
    assert (await logits(platform, "/models/m-2/invoke") == answers[1]).all()
    assert (await load(platform, "m-1", bundle.folder)).status_code == 200
    assert (await logits(platform, "/models/m-1/invoke") == answers[0]).all()


async def test_a_long_list_comes_in_pages(
    platform: httpx.AsyncClient, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.routes.sagemaker.PAGE_SIZE", 2)
    for name in "cab":
        await load(platform, name, bundle.folder)
    first = (await platform.get("/models")).json()
    second = (await platform.get("/models", params={"next_page_token": first["nextPageToken"]})).json()
    assert [entry["modelName"] for entry in first["models"] + second["models"]] == ["a", "b", "c"]
    assert "nextPageToken" not in second


async def test_a_model_twice_is_409(platform: httpx.AsyncClient, bundle: Bundle) -> None:
    codes = await asyncio.gather(*(load(platform, "m", bundle.folder) for _ in range(3)))
    assert sorted(response.status_code for response in codes) == [200, 409, 409]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"model_name": "m", "url": "/nowhere"}', "there is no bundle at '/nowhere'"),
        ('{"model_name": "m"}', "does not say which model"),
        ("no JSON", "does not say which model"),
        ("", "does not say which model"),
    ],
)
async def test_what_cannot_be_loaded_is_400_and_says_why(
    platform: httpx.AsyncClient, content: str, sentence: str
) -> None:
    response = await platform.post("/models", content=content)
    assert response.status_code == 400
    assert sentence in response.json()["message"]
    assert (await platform.get("/models")).json() == {"models": []}


async def test_a_spoilt_bundle_is_refused_and_the_next_one_loaded(
    platform: httpx.AsyncClient, bundle: Bundle, own_bundle: Path
) -> None:
    (own_bundle / "model.onnx").write_bytes(b"not what was written")
    response = await load(platform, "m", own_bundle)
    assert (response.status_code, response.json()["error"]) == (400, "bundle_error")
    assert (await load(platform, "m", bundle.folder)).status_code == 200


async def test_a_model_that_does_not_fit_is_507_and_the_others_go_on(
    platform: httpx.AsyncClient, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load(platform, "small", bundle.folder)
    monkeypatch.setattr("serving.machine.memory_bytes", lambda: 2**20)
    response = await load(platform, "large", bundle.folder)
    assert (response.status_code, response.json()["error"]) == (507, "out_of_memory")
    await logits(platform, "/models/small/invoke")
    monkeypatch.undo()
    assert (await load(platform, "large", bundle.folder)).status_code == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_model_that_is_not_there_is_404(platform: httpx.AsyncClient, method: str) -> None:
    assert (await platform.request(method, "/models/m")).status_code == 404


async def test_invocations_of_many_models_say_where_to_go(platform: httpx.AsyncClient) -> None:
    response = await platform.post("/invocations", content=images.jpeg(), headers=HEADERS)
    assert response.status_code == 404
    assert "/models/NAME/invoke" in response.json()["message"]


@asynccontextmanager
async def unloading(bundle: Bundle) -> AsyncIterator[tuple[httpx.AsyncClient, Callable[[], Awaitable[None]]]]:
    """A server whose model `m` is being unloaded and waits for an answer under way, and what ends both."""
    held = Held()
    settings = ServerSettings(multi_model=True)
    async with connected(create_app(settings, Models(settings, held.load))) as client:
        await load(client, "m", bundle.folder)
        held.let_go.clear()
        answer = asyncio.create_task(logits(client, "/models/m/invoke"))
        await until(lambda: held.batch_sizes == [1])
        deletion = asyncio.create_task(client.delete("/models/m"))
        await until_404(client)

        async def end() -> None:
            assert not deletion.done()
            held.let_go.set()
            assert (await answer).shape == (1, 7)
            assert (await deletion).status_code == 200

        yield client, end


async def test_unloading_waits_for_the_answers_under_way(bundle: Bundle) -> None:
    async with unloading(bundle) as (_, end):
        await end()


async def until_404(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(20):
        while (await client.get("/models/m")).status_code != 404:  # noqa: ASYNC110 - as the platform finds out
            await asyncio.sleep(0)


async def test_a_reload_answers_with_the_new_bundle_and_lets_those_under_way_end_with_the_old(
    own_bundle: Path, other: Bundle
) -> None:
    held = Held()
    settings = ServerSettings(model=own_bundle, threads=1)
    models = Models(settings, held.load)
    async with connected(create_app(settings, models)) as client:
        before, old = await logits(client), models.require()
        held.let_go.clear()
        under_way = asyncio.create_task(logits(client))
        await until(lambda: len(held.batch_sizes) == 2)
        replace(own_bundle, other)
        reloading = asyncio.create_task(models.reload())
        await until(lambda: models.require() is not old)
        assert not reloading.done()  # the old one is in use
        held.let_go.set()
        assert (await under_way == before).all()
        new = await reloading
        assert isinstance(new, Model)
        assert new.version == other.manifest.sha256[:12]
        assert not hasattr(old, "engine")
        assert (await logits(client) != before).any()


async def test_a_bad_bundle_is_not_reloaded_and_the_old_one_goes_on(
    own_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ServerSettings(model=own_bundle, threads=1, management_port=MANAGEMENT_PORT)
    app = create_app(settings)
    async with connected(app) as client:
        before = await logits(client)
        (own_bundle / "model.onnx").write_bytes(b"torn")
        async with client_at(app, MANAGEMENT) as management:
            response = await management.post("/reload")
        assert (response.status_code, response.json()["error"]) == (400, "bundle_error")
        assert "not reloaded" in caplog.text
        assert (await logits(client) == before).all()
        assert (await client.get("/ping")).status_code == 200


async def test_a_reload_is_heard_on_the_management_port_alone(own_bundle: Path, other: Bundle) -> None:
    app = create_app(ServerSettings(model=own_bundle, threads=1, management_port=MANAGEMENT_PORT))
    async with connected(app) as client:
        replace(own_bundle, other)
        assert (await client.post("/reload")).status_code == 404
        async with client_at(app, MANAGEMENT) as management:
            response = await management.post("/reload")
        assert response.json() == {"model": "model", "version": other.manifest.sha256[:12]}


async def test_without_a_management_port_there_is_no_reload(client: httpx.AsyncClient) -> None:
    assert (await client.post("/reload")).status_code == 404


async def test_a_bundle_that_could_not_be_loaded_can_be_mended_and_reloaded(own_bundle: Path) -> None:
    manifest = (own_bundle / "bundle.json").read_bytes()
    (own_bundle / "bundle.json").unlink()
    settings = ServerSettings(model=own_bundle, threads=1)
    models = Models(settings)
    app = create_app(settings, models)
    async with app.router.lifespan_context(app), client_at(app) as client:
        async with asyncio.timeout(20):
            while "could not be loaded" not in (await client.get("/ping")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (own_bundle / "bundle.json").write_bytes(manifest)
        await models.reload()
        assert (await client.get("/ping")).status_code == 200
        assert (await invoke(client, images.jpeg())).status_code == 200


def replace(folder: Path, bundle: Bundle) -> None:
    """As `mv` and `train` do: new files under old names, the manifest last."""
    for file in sorted(bundle.folder.iterdir(), key=lambda path: path.name == "bundle.json"):
        (folder / ".new").write_bytes(file.read_bytes())
        (folder / ".new").rename(folder / file.name)


async def test_a_model_out_of_service_is_still_listed_and_can_be_unloaded(bundle: Bundle, other: Bundle) -> None:
    """Else the platform could neither see the others nor load it anew."""
    settings = ServerSettings(multi_model=True)
    models = Models(settings)
    async with connected(create_app(settings, models)) as client:
        await load(client, "lost", bundle.folder)
        await load(client, "good", other.folder)
        models.require("lost")._is_lost = True
        assert (await client.post("/models/lost/invoke", content=images.jpeg(), headers=HEADERS)).status_code == 503
        assert [entry["modelName"] for entry in (await client.get("/models")).json()["models"]] == ["good", "lost"]
        assert (await client.get("/models/lost")).status_code == 200
        assert (await client.delete("/models/lost")).status_code == 200
        assert (await load(client, "lost", bundle.folder)).status_code == 200


async def test_unloading_one_model_keeps_nobody_from_loading_another(bundle: Bundle, other: Bundle) -> None:
    async with unloading(bundle) as (client, end):
        assert (await load(client, "m", other.folder)).status_code == 200
        await end()
        assert (await client.get("/models/m")).json()["modelUrl"] == str(other.folder)


async def test_measurements_of_an_unloaded_model_go_with_it(platform: httpx.AsyncClient, bundle: Bundle) -> None:
    for name in ("kept", "gone"):
        await load(platform, name, bundle.folder)
        await logits(platform, f"/models/{name}/invoke")
    await platform.delete("/models/gone")
    text = (await platform.get("/metrics")).text
    assert 'model="kept"' in text
    assert 'model="gone"' not in text


async def test_many_models_are_reloaded_by_the_platform_alone(platform: httpx.AsyncClient) -> None:
    models = Models(ServerSettings(multi_model=True))
    with pytest.raises(ModelNotFound, match="DELETE and POST /models"):
        await models.reload()
    models.close().result()


@pytest.mark.parametrize("name", ["a/b", "/", ""])
async def test_a_name_that_no_path_can_hold_is_refused(platform: httpx.AsyncClient, bundle: Bundle, name: str) -> None:
    assert (await load(platform, name, bundle.folder)).status_code == 400


async def test_a_place_that_cannot_be_looked_at_is_400(platform: httpx.AsyncClient) -> None:
    response = await load(platform, "m", Path("/" + "x" * 300))
    assert (response.status_code, response.json()["error"]) == (400, "bundle_error")


async def test_a_new_bundle_that_does_not_fit_beside_the_old_one_is_not_reloaded(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServerSettings(model=own_bundle, threads=1)
    models = Models(settings)
    async with connected(create_app(settings, models)) as client:
        monkeypatch.setattr("serving.machine.memory_bytes", lambda: 2**20)
        with pytest.raises(OutOfMemory, match="start the server anew"):
            await models.reload()
        await logits(client)
