"""Where the model looked: maps by every engine, and the route that answers them."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from serving import bundle as bundles
from serving.app import create_app
from serving.bundle import Bundle
from serving.engines import open_engine
from serving.engines.activation_map import ActivationMaps, Maps
from serving.errors import BundleError, EngineError, MapNotFound, OutOfMemory
from serving.preprocess import Pixels, preprocess
from serving.settings import ServerSettings
from tests.serving.test_app import refusal
from tests.support import images
from tests.support.apps import connected
from tests.support.bundles import LABELS, SPEC, reseal, write_bundle

pytestmark = pytest.mark.anyio

JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("maps"), with_int8=True, with_maps=True)


@pytest.fixture
def app(bundle: Bundle) -> FastAPI:
    return create_app(ServerSettings(model=bundle.folder, threads=1, max_payload_mb=1))


@pytest.fixture
async def old(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose bundle has no maps, as those of earlier versions."""
    plain = write_bundle(tmp_path / "old")
    async with connected(create_app(ServerSettings(model=plain.folder, threads=1))) as ready:
        yield ready


def pictures(count: int) -> Pixels:
    return np.stack([images.noise(SPEC.height, SPEC.width, seed=seed) for seed in range(count)])


async def ask(client: httpx.AsyncClient, picture: bytes, query: str = "") -> httpx.Response:
    return await client.post(f"/activation-map{query}", content=picture, headers=JPEG)


def test_the_mean_of_the_maps_moves_with_the_logits_of_the_default_engine(bundle: Bundle) -> None:
    """But for the bias, which is the same for all pictures."""
    logits, maps = open_engine("onnx", bundle, 1).infer(pictures(4)), ActivationMaps(bundle, 1).infer(pictures(4))
    assert maps.shape == (4, len(LABELS), 10, 8)
    assert maps.dtype == np.float32
    bias = logits - maps.mean(axis=(2, 3))
    assert np.ptp(bias, axis=0).max() < 1e-4 * np.abs(logits).max() < np.ptp(logits, axis=0).max()


def test_a_changed_file_of_nodes_is_refused_with_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, with_maps=True).folder
    (folder / bundles.ACTIVATION_MAP).write_bytes(b"no nodes")
    with pytest.raises(BundleError, match=r"activation_map\.onnx"):
        bundles.read(folder)
    reseal(folder)
    with pytest.raises(BundleError, match="is not a model that ONNX Runtime loads"):
        ActivationMaps(bundles.read(folder), 1).open()


def test_a_bundle_without_them_says_so(tmp_path: Path) -> None:
    maps = ActivationMaps(write_bundle(tmp_path), 1)
    assert not maps.are_there
    with pytest.raises(MapNotFound, match=r"has no activation_map\.onnx: .*at its image size there is but one place"):
        maps.infer(pictures(1))


def test_a_second_copy_of_the_weights_has_to_fit(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.machine.memory_bytes", lambda: 2**20)
    with pytest.raises(OutOfMemory, match="give the server more"):
        ActivationMaps(bundle, 1).open()


def test_pixels_of_a_wrong_shape_are_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="failed on the activation maps of 1"):
        ActivationMaps(bundle, 1).infer(pictures(1)[:, 1:])


async def test_it_answers_the_map_of_the_most_probable_label(client: httpx.AsyncClient, bundle: Bundle) -> None:
    picture = images.jpeg(seed=3)
    best = (await client.post("/invocations", content=picture, headers=JPEG)).json()["predictions"][0]
    answer = (await ask(client, picture)).json()
    assert (answer["label"], answer["index"]) == (best["label"], best["index"])
    assert_is_map(answer, ActivationMaps(bundle, 1).infer(preprocess(picture, SPEC)[np.newaxis])[0, best["index"]])


@pytest.mark.parametrize("query", ["", "?label=0"])
async def test_it_says_where_the_time_went_as_answers_with_labels_do(
    client: httpx.AsyncClient, bundle: Bundle, query: str
) -> None:
    answer = await ask(client, images.jpeg(), query)
    phases = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert list(phases) == ["decode", "queue", "model"]
    assert float(phases["model"]) > 0
    assert f"model={bundle.manifest.sha256[:12]}" in answer.headers["x-amzn-sagemaker-custom-attributes"]


async def test_another_label_has_another_map(client: httpx.AsyncClient, bundle: Bundle) -> None:
    picture = images.jpeg(seed=3)
    maps = ActivationMaps(bundle, 1).infer(preprocess(picture, SPEC)[np.newaxis])[0]
    answers = [(await ask(client, picture, f"?label={index}")).json() for index in range(len(LABELS))]
    assert [answer["label"] for answer in answers] == list(LABELS)
    for index, answer in enumerate(answers):
        assert_is_map(answer, maps[index])
    assert len({json.dumps(answer["rows"]) for answer in answers}) == len(LABELS)


def assert_is_map(answer: dict[str, object], expected: Maps) -> None:
    """Rows between 0 and 1, both of which occur, and their range."""
    rows, least, most = np.array(answer["rows"]), answer["range"]["least"], answer["range"]["most"]  # type: ignore[index]
    assert (rows.min(), rows.max()) == (0, 1)
    np.testing.assert_allclose(least + rows * (most - least), expected, atol=1e-4 * np.abs(expected).max())


async def test_what_the_network_saw_is_told_in_shares_of_the_shorter_side(client: httpx.AsyncClient) -> None:
    """A mark just inside of the rectangle changes the answer, and one just outside of it does not."""
    width, height = 300, 140
    seen = await ask(client, images.jpeg())
    share = seen.json()["seen"]
    assert share == {"width": pytest.approx(20 / 28), "height": pytest.approx(24 / 28)}
    left = round((width - share["width"] * height) / 2)

    async def answer_to(mark: int) -> object:
        image = Image.new("RGB", (width, height), (40, 90, 20))
        image.paste((255, 255, 255), (mark, 0, mark + 3, height))
        return (await ask(client, images.encode(image, "PNG"), "?label=0")).json()["rows"]

    blank = await answer_to(width)
    assert await answer_to(left - 12) == blank
    assert await answer_to(left + 6) != blank


async def test_every_body_with_one_picture_will_do(client: httpx.AsyncClient) -> None:
    picture = images.jpeg(seed=5)
    expected = (await ask(client, picture)).json()
    encoded = base64.b64encode(picture).decode()
    by_json = await client.post("/activation-map", json={"images": [encoded]})
    by_form = await client.post("/activation-map", files={"file": ("rex.jpg", picture)})
    assert by_json.json() == expected
    assert by_form.json() == expected
    several = await client.post("/activation-map", json={"images": [encoded, encoded]})
    assert refusal(several) == (400, "invalid_input")
    assert "2 pictures, expected one" in several.json()["message"]


@pytest.mark.parametrize("label", ["-1", "7", "beagle", "", "1.0", "9" * 30, "²"])
async def test_a_label_that_is_not_there_is_refused(client: httpx.AsyncClient, label: str) -> None:
    response = await client.post("/activation-map", params={"label": label}, content=images.jpeg(), headers=JPEG)
    assert refusal(response) == (400, "invalid_input")
    assert response.json()["message"].startswith("label is ")


async def test_what_is_no_picture_or_of_no_known_kind_is_refused_as_anywhere(client: httpx.AsyncClient) -> None:
    assert refusal(await ask(client, b"no picture")) == (400, "invalid_input")
    assert refusal(await ask(client, b"0" * (1 << 21))) == (413, "payload_too_large")
    odd = await client.post("/activation-map", content=images.jpeg(), headers={"Content-Type": "image/odd"})
    assert refusal(odd) == (415, "unsupported_content_type")


async def test_a_bundle_without_maps_is_a_404_and_still_labels(old: httpx.AsyncClient) -> None:
    response = await ask(old, images.jpeg())
    assert refusal(response) == (404, "map_not_found")
    assert "this bundle has no activation_map.onnx" in response.json()["message"]
    assert (await old.get("/card")).json()["has_activation_map"] is False
    assert (await old.post("/invocations", content=images.jpeg(), headers=JPEG)).status_code == 200


async def test_the_card_says_that_there_are_maps(client: httpx.AsyncClient) -> None:
    assert (await client.get("/card")).json()["has_activation_map"] is True


async def test_the_8_bit_engine_tells_where_the_network_of_its_bundle_looked(
    client: httpx.AsyncClient, bundle: Bundle
) -> None:
    picture = images.jpeg(seed=3)
    expected = (await ask(client, picture, "?label=2")).json()
    async with connected(create_app(ServerSettings(model=bundle.folder, threads=1, engine="onnx-int8"))) as rounded:
        best = (await rounded.post("/invocations", content=picture, headers=JPEG)).json()["predictions"][0]
        assert (await ask(rounded, picture, "?label=2")).json() == expected
        assert (await ask(rounded, picture)).json()["index"] == best["index"]


async def test_maps_wait_for_the_engine_like_labels_and_are_refused_when_too_many_do(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, is_held = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    infer = ActivationMaps.infer

    def hold(maps: ActivationMaps, pixels: Pixels) -> Maps:
        loop.call_soon_threadsafe(is_held.set)
        asyncio.run_coroutine_threadsafe(held.wait(), loop).result(30)
        return infer(maps, pixels)

    monkeypatch.setattr(ActivationMaps, "infer", hold)
    settings = ServerSettings(model=bundle.folder, threads=1, max_queue_size=2)
    async with connected(create_app(settings)) as client:
        first = asyncio.create_task(ask(client, images.jpeg(), "?label=0"))
        await is_held.wait()
        second = asyncio.create_task(client.post("/invocations", content=images.jpeg(), headers=JPEG))
        # That it waits behind the map is to be seen in the metrics alone.
        while "kennel_queue_pictures 1.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert refusal(await ask(client, images.jpeg())) == (503, "queue_full")
        assert (await client.get("/ping")).status_code == 200
        assert not second.done()
        held.set()
        assert (await first).status_code == (await second).status_code == 200


async def test_a_map_that_fails_takes_no_model_out_of_service(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: ActivationMaps, __: Pixels) -> Maps:
        raise EngineError("the runtime failed")

    monkeypatch.setattr(ActivationMaps, "infer", fail)
    assert refusal(await ask(client, images.jpeg())) == (500, "internal_error")
    assert (await client.get("/ping")).status_code == 200


async def test_openapi_describes_the_route(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()["paths"]["/activation-map"]["post"]
    assert set(described["responses"]) == {"200", "400", "404", "413", "415", "500", "503", "507"}
    assert [parameter["name"] for parameter in described["parameters"]] == ["label"]
    answer = (await ask(client, images.encode(images.noise(30, 30), "PNG"))).json()
    assert set(answer) == set(described["responses"]["200"]["content"]["application/json"]["schema"]["required"])


def test_it_is_the_graph_and_the_nodes_one_after_the_other(bundle: Bundle) -> None:
    """So that any other program can have the maps as well."""
    import onnx

    joined = bundle.file(bundles.ONNX_MODEL).read_bytes() + bundle.file(bundles.ACTIVATION_MAP).read_bytes()
    model = onnx.load(io.BytesIO(joined))
    onnx.checker.check_model(model)
    assert [output.name for output in model.graph.output] == ["logits", "activation_map"]
