"""Routes, headers and error answers, over ASGI in this process."""

import asyncio
import base64
import io
import json
import logging
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from serving.app import create_app
from serving.bundle import Bundle
from serving.engines import TOLERANCE, Logits
from serving.engines.onnx_engine import OnnxEngine
from serving.errors import EngineError
from serving.preprocess import Pixels, preprocess
from serving.settings import ServerSettings
from serving.writers import WRITERS
from tests.support import images
from tests.support.apps import connected
from tests.support.bundles import LABELS

pytestmark = pytest.mark.anyio

JPEG = {"Content-Type": "image/jpeg"}


async def post(client: httpx.AsyncClient, body: bytes | None = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/invocations", content=images.jpeg() if body is None else body, headers=JPEG | named)


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Status and code word of an error answer, whose form is always the same."""
    content = response.json()
    assert set(content) == {"error", "message"}
    assert content["message"]
    assert "\n" not in content["message"]
    assert len(response.content) < 2000
    assert response.headers["content-type"] == "application/json"
    return response.status_code, content["error"]


async def test_an_answer_ranks_labels_by_the_probability_of_the_engines_own_logits(
    client: httpx.AsyncClient, bundle: Bundle
) -> None:
    picture = images.jpeg(seed=3)
    logits = OnnxEngine(bundle, 1).infer(preprocess(picture, bundle.manifest.input)[np.newaxis])[0].astype(float)
    expected = np.exp(logits) / np.exp(logits).sum()
    response = await post(client, picture)
    predictions = response.json()["predictions"]
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert [entry["index"] for entry in predictions] == list(np.argsort(-expected)[:5])
    for entry in predictions:
        assert entry["label"] == LABELS[entry["index"]]
        assert entry["probability"] == pytest.approx(expected[entry["index"]], abs=1e-6)


@pytest.mark.parametrize(("attributes", "count"), [("top_k=3", 3), ("trace=a=b, top_k=1 ,x", 1), ("top_k=99", 7)])
async def test_custom_attributes_say_how_many_labels(client: httpx.AsyncClient, attributes: str, count: int) -> None:
    response = await post(client, X_Amzn_SageMaker_Custom_Attributes=attributes)
    assert len(response.json()["predictions"]) == count


async def test_the_setting_says_how_many_labels_where_the_request_does_not(bundle: Bundle) -> None:
    async with connected(create_app(ServerSettings(model=bundle.folder, top_k=2))) as client:
        assert len((await post(client)).json()["predictions"]) == 2
        traced = await post(client, X_Amzn_SageMaker_Custom_Attributes="trace=00-4bf9")
        assert len(traced.json()["predictions"]) == 2


@pytest.mark.parametrize("decode", ["exact", "reduced"])
async def test_the_setting_says_how_large_jpegs_become_pixels_whichever_way_they_come(
    bundle: Bundle, decode: Literal["exact", "reduced"]
) -> None:
    picture = images.jpeg(600, 800)
    in_base64 = base64.b64encode(picture).decode()
    as_json = {"instances": [{"b64": in_base64}]}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [in_base64]}
    outputs = {"inputs": [tensor], "outputs": [{"name": "logits"}]}
    pixels = preprocess(picture, bundle.manifest.input, decode)
    expected = OnnxEngine(bundle, 1).infer(pixels[np.newaxis])
    async with connected(create_app(ServerSettings(model=bundle.folder, decode=decode))) as client:
        npy = {"Accept": "application/x-npy"}
        answers = [
            await client.post("/invocations", content=picture, headers=JPEG | npy),
            await client.post("/invocations", files={"file": ("a.jpg", picture)}, headers=npy),
            await client.post("/invocations", json=as_json, headers=npy),
        ]
        by_kserve = await client.post("/v2/models/model/infer", json=outputs)
    for answer in answers:
        np.testing.assert_allclose(np.load(io.BytesIO(answer.content)), expected, rtol=1e-4)
    np.testing.assert_allclose([by_kserve.json()["outputs"][0]["data"]], expected, rtol=1e-4)


async def test_npy_holds_the_raw_logits_of_one_picture(client: httpx.AsyncClient, bundle: Bundle) -> None:
    picture = images.jpeg(seed=4)
    response = await post(client, picture, Accept="application/x-npy")
    logits = np.load(io.BytesIO(response.content), allow_pickle=False)
    expected = OnnxEngine(bundle, 1).infer(preprocess(picture, bundle.manifest.input)[np.newaxis])
    assert response.headers["content-type"] == "application/x-npy"
    assert (logits.shape, logits.dtype) == ((1, len(LABELS)), np.float32)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


@pytest.mark.parametrize("path", ["/ping", "/ping/"])
async def test_ping_is_an_empty_200_when_the_model_is_ready(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/invocations", "POST"),
        ("PUT", "/invocations", "POST"),
        ("POST", "/ping", "GET"),
        ("DELETE", "/ping/", "GET"),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_is_right(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)
    assert refusal(response) == (405, "method_not_allowed")
    assert response.headers["allow"] == allowed


async def test_attributes_in_the_query_are_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/invocations?top_k=2", content=images.jpeg(), headers=JPEG)
    assert refusal(response) == (400, "invalid_input")
    assert "in the header X-Amzn-SageMaker-Custom-Attributes" in response.json()["message"]


@pytest.mark.parametrize(
    ("path", "flag"),
    [("/reload", "--management-port"), ("/models", "--multi-model"), ("/models/dogs/invoke", "--multi-model")],
)
async def test_a_path_that_another_server_would_have_is_404_and_says_which(
    client: httpx.AsyncClient, path: str, flag: str
) -> None:
    response = await client.post(path)
    assert refusal(response) == (404, "not_found")
    assert flag in response.json()["message"]


@pytest.mark.parametrize("path", ["/invocations/", "/ping/x", "/models", "/" + "x" * 5000])
async def test_a_wrong_path_is_404_and_says_which_are_right(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path)
    assert refusal(response) == (404, "not_found")
    assert "/invocations" in response.json()["message"] or len(path) > 1000


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Content-Type": "text/plain"}, (415, "unsupported_content_type")),
        ({"Content-Type": ""}, (415, "unsupported_content_type")),
        ({"Content-Type": "x" * 8000}, (415, "unsupported_content_type")),
        ({"Content-Encoding": "gzip"}, (415, "unsupported_content_type")),
        ({"Accept": "text/html"}, (406, "not_acceptable")),
        ({"X-Amzn-SageMaker-Custom-Attributes": "top_k=0"}, (400, "invalid_input")),
        ({"X-Amzn-SageMaker-Custom-Attributes": "top_k=-1"}, (400, "invalid_input")),
        ({"X-Amzn-SageMaker-Custom-Attributes": "top_k=three"}, (400, "invalid_input")),
        ({"X-Amzn-SageMaker-Custom-Attributes": "top_k="}, (400, "invalid_input")),
    ],
)
async def test_a_wrong_header_is_refused_and_the_next_request_answered(
    client: httpx.AsyncClient, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    response = await client.post("/invocations", content=images.jpeg(), headers=JPEG | headers)
    assert refusal(response) == expected
    assert (await post(client)).status_code == 200


async def test_a_missing_content_type_is_415_and_says_what_is_accepted(client: httpx.AsyncClient) -> None:
    response = await client.post("/invocations", content=images.jpeg())
    assert refusal(response) == (415, "unsupported_content_type")
    assert "image/jpeg" in response.json()["message"]


async def test_a_body_without_declared_length_is_refused_once_it_is_over_the_limit(app: FastAPI) -> None:
    taken = 0

    async def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(100_000)

    async with connected(app) as client:
        response = await client.post("/invocations", content=endless(), headers=JPEG)
    assert refusal(response) == (413, "payload_too_large")
    assert taken <= 12  # the limit of this app is 1 MB


async def test_a_body_with_declared_length_is_refused_before_it_is_read(app: FastAPI) -> None:
    is_read = False

    async def watched() -> Any:
        nonlocal is_read
        is_read = True
        yield b""

    async with connected(app) as client:
        headers = JPEG | {"Content-Length": str(2**20 + 1)}
        response = await client.post("/invocations", content=watched(), headers=headers)
    assert refusal(response) == (413, "payload_too_large")
    assert not is_read


async def test_a_body_of_exactly_the_limit_is_read(client: httpx.AsyncClient) -> None:
    picture = images.jpeg()
    assert (await post(client, picture + bytes(2**20 - len(picture)))).status_code == 200


async def test_a_body_that_trickles_gives_its_slot_back(bundle: Bundle) -> None:
    async def stalled() -> Any:
        yield b"\xff\xd8"
        await asyncio.Event().wait()

    app = create_app(ServerSettings(model=bundle.folder, max_queue_size=1, body_timeout_s=0.05))
    async with connected(app) as client:
        response = await asyncio.wait_for(client.post("/invocations", content=stalled(), headers=JPEG), 20)
        assert refusal(response) == (400, "invalid_input")
        assert (await post(client)).status_code == 200


async def test_a_bad_picture_gets_400_and_its_neighbours_their_answers(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(post(client, b"no picture" if index == 2 else None) for index in range(5)))
    assert [answer.status_code for answer in answers] == [200, 200, 400, 200, 200]


async def test_several_pictures_get_an_answer_each_in_their_order(client: httpx.AsyncClient, bundle: Bundle) -> None:
    pictures = [images.jpeg(seed=seed) for seed in range(40)]
    body = json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()} for picture in pictures]})
    headers = {"Content-Type": "application/json", "Accept": "application/x-npy"}
    answered = np.load(io.BytesIO((await client.post("/invocations", content=body, headers=headers)).content))
    pixels = np.stack([preprocess(picture, bundle.manifest.input) for picture in pictures])
    np.testing.assert_allclose(answered, OnnxEngine(bundle, 1).infer(pixels), rtol=1e-4, atol=1e-5)
    ranked = await client.post("/invocations", content=body, headers=headers | {"Accept": "application/json"})
    assert [row[0]["index"] for row in ranked.json()["predictions"]] == answered.argmax(1).tolist()


async def test_a_form_of_files_is_answered_as_curl_sends_it(client: httpx.AsyncClient) -> None:
    files = [("file", ("a.jpg", images.jpeg(seed=seed), "image/jpeg")) for seed in range(2)]
    response = await client.post("/invocations", files=files, headers={"Accept": "application/jsonlines"})
    assert response.status_code == 200
    assert [len(json.loads(line)["predictions"]) for line in response.text.splitlines()] == [5, 5]


async def test_one_bad_picture_of_several_refuses_them_all_and_leaves_nothing_under_way(
    client: httpx.AsyncClient,
) -> None:
    good = base64.b64encode(images.jpeg()).decode()
    body = json.dumps({"images": [good, "bm8gcGljdHVyZQ==", good]})
    response = await client.post("/invocations", content=body, headers={"Content-Type": "application/json"})
    assert refusal(response) == (400, "invalid_input")
    assert (await post(client)).status_code == 200


class FailingEngine:
    """An engine that works until told otherwise."""

    name = "onnx"
    tolerance = TOLERANCE

    def __init__(self, engine: OnnxEngine) -> None:
        self._engine = engine
        self.failures = 0

    @property
    def options(self) -> dict[str, str]:
        return {}

    def infer(self, pixels: Pixels) -> Logits:
        if self.failures > 0:
            self.failures -= 1
            raise EngineError("secret /opt/path is on fire")
        return self._engine.infer(pixels)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> FailingEngine:
    engine = FailingEngine(OnnxEngine(bundle, 1))
    monkeypatch.setattr("serving.model.open_engine", lambda *_: engine)
    return engine


async def test_an_engine_failure_is_500_that_tells_the_caller_an_id_and_the_log_the_reason(
    failing: FailingEngine, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(app) as client:
        failing.failures = 1
        response = await post(client, X_Amzn_SageMaker_Inference_Id="order-17")
        assert refusal(response) == (500, "internal_error")
        assert "secret" not in response.text
        assert "order-17" in response.text
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "order-17" in record.getMessage()
        assert "secret /opt/path" in record.getMessage()
        assert record.exc_info
        # one batch failed, the golden inputs did not: the server goes on
        assert (await client.get("/ping")).status_code == 200
        assert (await post(client)).status_code == 200


async def test_an_engine_that_fails_its_golden_inputs_too_goes_out_of_service(
    failing: FailingEngine, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(app) as client:
        failing.failures = 2
        assert refusal(await post(client)) == (500, "internal_error")
        assert refusal(await client.get("/ping")) == (503, "not_ready")
        refused = await post(client)
        assert refusal(refused) == (503, "not_ready")
        assert refused.headers["retry-after"] == "1"
    assert "model out of service" in caplog.text


async def test_refused_requests_are_one_line_of_log_without_traceback(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serving")
    caplog.clear()
    await post(client, b"no picture")
    (record,) = [record for record in caplog.records if record.name == "serving.failures"]
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith("400 ")
    assert not record.exc_info


@pytest.mark.parametrize(
    ("payload_mb", "at_once", "size_mb"), [(6, 16, 6), (25, 4, 25), (60, 1, 60), (0, 1, 100), (1, 64, 1)]
)
async def test_a_batch_transform_is_told_what_to_send_at_once(
    bundle: Bundle, payload_mb: int, at_once: int, size_mb: int
) -> None:
    async with connected(create_app(ServerSettings(model=bundle.folder, max_payload_mb=payload_mb))) as client:
        told = (await client.get("/execution-parameters")).json()
    assert told == {"MaxConcurrentTransforms": at_once, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": size_mb}


async def test_openapi_describes_the_routes_as_they_are(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert {"/ping", "/invocations", "/execution-parameters", "/card", "/metrics"} <= set(document["paths"])
    assert not {path for path in document["paths"] if path.startswith(("/models", "/reload"))}
    invocation = document["paths"]["/invocations"]["post"]
    assert {"image/jpeg", "image/png"} <= set(invocation["requestBody"]["content"])
    assert set(invocation["responses"]["200"]["content"]) == {writer.content_type for writer in WRITERS}
    assert set(invocation["responses"]) == {"200", "400", "406", "413", "415", "500", "503", "507"}
    assert set(document["paths"]["/ping"]["get"]["responses"]) == {"200", "503"}
