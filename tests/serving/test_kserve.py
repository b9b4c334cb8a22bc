"""KServe's v1 protocol and the Open Inference Protocol, from the same engine as /invocations."""

import base64
import io
import json
import re
import struct
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from serving.app import create_app
from serving.bundle import Bundle
from serving.settings import ServerSettings
from tests.support import images
from tests.support.apps import client_at, connected
from tests.support.bundles import LABELS

pytestmark = pytest.mark.anyio

PICTURES = [images.jpeg(seed=seed) for seed in range(3)]
INFER = "/v2/models/model/infer"
LENGTH = "Inference-Header-Content-Length"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def logits_of(client: httpx.AsyncClient, pictures: list[bytes] = PICTURES) -> NDArray[np.float32]:
    """As /invocations has them."""
    headers = {"Content-Type": "image/jpeg", "Accept": "application/x-npy"}
    rows = [(await client.post("/invocations", content=picture, headers=headers)).content for picture in pictures]
    return np.concatenate([np.load(io.BytesIO(row)) for row in rows])


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "pictures", "datatype": "BYTES", "shape": [3], "data": [*map(encoded, PICTURES)], **fields}


async def infer(client: httpx.AsyncClient, **request: Any) -> dict[str, Any]:
    response = await client.post(INFER, json={"inputs": [tensor()], **request})
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


async def refused(client: httpx.AsyncClient, **fields: Any) -> str:
    response = await client.post(INFER, json={"inputs": [tensor(**fields)]})
    assert response.status_code == 400, response.text
    return str(response.json()["message"])


async def test_v1_predicts_instances_as_invocations_does(client: httpx.AsyncClient) -> None:
    body = {"instances": [{"b64": encoded(picture)} for picture in PICTURES]}
    by_name = await client.post("/v1/models/model:predict", json=body)
    assert by_name.json() == (await client.post("/invocations", json=body)).json()
    assert len(by_name.json()["predictions"]) == 3


async def test_v1_lists_the_model_and_says_that_it_is_ready(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json() == {"models": ["model"]}
    assert (await client.get("/v1/models/model")).json() == {"name": "model", "ready": True}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/dogs"),
        ("POST", "/v1/models/dogs:predict"),
        ("GET", "/v2/models/dogs"),
        ("GET", "/v2/models/dogs/ready"),
        ("POST", "/v2/models/dogs/infer"),
        ("POST", "/v2/models/model/versions/1/infer"),
    ],
)
async def test_another_name_or_version_is_404_and_says_which_there_is(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await client.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == 404
    assert response.json()["error"] == "model_not_found"
    assert "only" in response.json()["message"]


async def test_the_operator_names_the_model(bundle: Bundle) -> None:
    async with connected(create_app(ServerSettings(model=bundle.folder, model_name="dogs"))) as client:
        assert (await client.get("/v1/models/dogs")).status_code == 200
        assert (await client.get("/v1/models/model")).status_code == 404


async def test_before_a_model_is_loaded_all_say_503(app: FastAPI) -> None:
    async with client_at(app) as client:  # nobody starts it
        for path in ("/v1/models/model", "/v2/health/ready", "/v2/models/model", "/v2/models/model/ready"):
            response = await client.get(path)
            assert (response.status_code, response.json()["error"]) == (503, "not_ready")
            assert response.headers["retry-after"]
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get("/v1/models")).json() == {"models": []}


async def test_v2_describes_server_and_model(client: httpx.AsyncClient, bundle: Bundle) -> None:
    assert "binary_tensor_data" in (await client.get("/v2")).json()["extensions"]
    assert (await client.get("/v2/health/ready")).json() == {"ready": True}
    described = (await client.get("/v2/models/model")).json()
    version = bundle.manifest.sha256[:12]
    assert described["versions"] == [version]
    assert (await client.get(f"/v2/models/model/versions/{version}")).json() == described
    assert [entry["name"] for entry in described["inputs"]] == ["pictures"]
    shapes = {entry["name"]: (entry["datatype"], entry["shape"]) for entry in described["outputs"]}
    assert shapes == {"label": ("BYTES", [-1]), "probabilities": ("FP32", [-1, 7]), "logits": ("FP32", [-1, 7])}


async def test_v2_answers_label_and_probabilities_unless_told_otherwise(client: httpx.AsyncClient) -> None:
    logits = await logits_of(client)
    answer = await infer(client, id="seventeen")
    assert (answer["id"], answer["model_name"]) == ("seventeen", "model")
    label, probabilities = answer["outputs"]
    assert (label["name"], label["shape"]) == ("label", [3])
    assert label["data"] == [LABELS[index] for index in logits.argmax(1)]
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [3, 7])
    rows = np.array(probabilities["data"]).reshape(3, 7)
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(rows.argmax(1), logits.argmax(1))


async def test_v2_takes_pictures_nested_as_their_shape_is(client: httpx.AsyncClient) -> None:
    nested = await infer(client, inputs=[tensor(shape=[3, 1], data=[[encoded(picture)] for picture in PICTURES])])
    assert nested["outputs"] == (await infer(client))["outputs"]


async def test_v2_answers_what_is_asked_for(client: httpx.AsyncClient) -> None:
    (output,) = (await infer(client, outputs=[{"name": "logits"}]))["outputs"]
    np.testing.assert_array_equal(np.array(output["data"], np.float32).reshape(3, 7), await logits_of(client))


async def test_v2_takes_pictures_and_gives_tensors_in_bytes(client: httpx.AsyncClient) -> None:
    blob = b"".join(struct.pack("<I", len(picture)) + picture for picture in PICTURES)
    head = json.dumps(
        {
            "inputs": [{"name": "p", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(blob)}}],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "label"}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    headers = {LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
    response = await client.post(INFER, content=head + blob, headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[LENGTH])
    logits, label = json.loads(response.content[:length])["outputs"]
    size = logits["parameters"]["binary_data_size"]
    rest = response.content[length:]
    expected = await logits_of(client)
    np.testing.assert_array_equal(np.frombuffer(rest[:size], "<f4").reshape(logits["shape"]), expected)
    texts = rest[size:]
    assert len(texts) == label["parameters"]["binary_data_size"]
    found = []
    while texts:
        (count,) = struct.unpack_from("<I", texts)
        found.append(texts[4 : 4 + count].decode())
        texts = texts[4 + count :]
    assert found == [LABELS[index] for index in expected.argmax(1)]


@pytest.mark.parametrize("datatype", ["UINT8", "FP32", "FP64"])
@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("is_planar", [False, True])
async def test_v2_takes_pixels_of_every_kind_and_layout(
    client: httpx.AsyncClient, datatype: str, is_binary: bool, is_planar: bool
) -> None:
    pixels = images.noise(31, 40, seed=5)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    expected = await logits_of(client, [buffer.getvalue()])
    dtype = {"UINT8": "|u1", "FP32": "<f4", "FP64": "<f8"}[datatype]
    array = np.moveaxis(pixels, 2, 0) if is_planar else pixels
    values = array.astype(dtype) if datatype == "UINT8" else (array / 255).astype(dtype)
    described: dict[str, Any] = {"name": "x", "datatype": datatype, "shape": [1, *array.shape]}
    blob = values.tobytes() if is_binary else b""
    described |= {"parameters": {"binary_data_size": len(blob)}} if is_binary else {"data": values.tolist()}
    head = json.dumps({"inputs": [described], "outputs": [{"name": "logits"}]}).encode()
    response = await client.post(INFER, content=head + blob, headers={LENGTH: str(len(head))})
    (output,) = response.json()["outputs"]
    np.testing.assert_array_equal(np.array([output["data"]], np.float32), expected)


async def test_v2_hands_back_an_id_that_is_text_in_json_and_in_no_encoding(client: httpx.AsyncClient) -> None:
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(images.jpeg()).decode()]}
    response = await client.post(INFER, content=json.dumps({"id": "\ud800", "inputs": [tensor]}))
    assert (response.status_code, response.json()["id"]) == (200, "\ud800")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"datatype": "FP16"}, "of 'FP16', expected BYTES, UINT8"),
        ({"datatype": 3}, "datatype is a number"),
        ({"shape": [2]}, "3 elements, expected a list of 2"),
        ({"shape": "3"}, "shape is a text"),
        ({"shape": [-1]}, "expected a list of whole numbers"),
        ({"shape": [True]}, "expected a list of whole numbers"),
        ({"data": "x"}, "a text, expected a list"),
        ({"data": [1, 2, 3]}, "data[0] is a number"),
        ({"data": ["%", "%", "%"]}, "not base64"),
        ({"shape": [0], "data": []}, "holds 0 pictures"),
        ({"parameters": {"binary_data_size": 10}}, "0 bytes follow the JSON"),
        ({"parameters": []}, "parameters is a list"),
        ({"datatype": "UINT8", "shape": [1, 3, 2, 2], "data": [0] * 11}, "has 12 values, and 11 came"),
        ({"datatype": "UINT8", "shape": [1, 3, 2, 2], "data": [256] * 12}, "whole numbers from 0 to 255"),
        ({"datatype": "UINT8", "shape": [1, 3, 2, 2], "data": [0.5] * 12}, "whole numbers from 0 to 255"),
        ({"datatype": "FP32", "shape": [1, 3, 2, 2], "data": [[0], [0, 1]]}, "no even list"),
        ({"datatype": "FP32", "shape": [2], "data": ["a", "b"]}, "other than numbers"),
        ({"datatype": "FP32", "shape": [1001], "data": ["a" * 1_000_000, *[0] * 1000]}, "other than numbers"),
        ({"datatype": "FP32", "shape": [2], "data": [True, None]}, "other than numbers"),
        ({"datatype": "FP64", "shape": [1], "data": [10**400]}, "numbers that no FP64 can be"),
        ({"datatype": "FP32", "shape": [1, 3, 2, 2], "data": [1e300] * 12}, "not finite"),
        ({"datatype": "FP32", "shape": [0, 3, 2**31 - 1, 2**31 - 1], "data": []}, "has the shape"),
        ({"datatype": "FP32", "shape": [1] * 8, "data": [0]}, "has the shape"),
        ({"datatype": "FP32", "shape": [1] * 100, "data": [0]}, "has 100 sides, expected at most 8"),
        ({"datatype": "FP32", "shape": [10**4000] * 8, "data": [0]}, "expected a list of whole numbers"),
        ({"shape": [1] * 100_000, "data": ["x"]}, "has 100000 sides"),
        ({"shape": [257], "data": ["x"] * 257}, "holds 257 pictures"),
        ({"datatype": "FP32", "shape": [1, 5, 2, 2], "data": [0] * 20}, "3 colour channels"),
        ({"datatype": "FP32", "shape": [1, 3, 2, 2], "data": [9] * 12}, "reach from 9 to 9"),
    ],
)
async def test_v2_refuses_what_is_no_tensor_of_pictures(
    client: httpx.AsyncClient, fields: dict[str, Any], sentence: str
) -> None:
    assert sentence in await refused(client, **fields)


@pytest.mark.parametrize(
    ("body", "headers", "sentence"),
    [
        (b"", {}, "not JSON"),
        (b"[]", {}, "the request is a list"),
        (b"{}", {}, "inputs is null"),
        (b'{"inputs": []}', {}, "expected a list of one tensor"),
        (b'{"inputs": [{}], "id": 3}', {}, "id is a number"),
        (b'{"inputs": [{}], "outputs": [{"name": "boxes"}]}', {}, "'boxes', expected label, probabilities, logits"),
        (b'{"inputs": [{}], "outputs": [{"name": "label"}, {"name": "label"}]}', {}, "asks for label twice"),
        (b"{}", {LENGTH: "3"}, "said to have 3 bytes, and 2 came"),
        (b"{}", {LENGTH: "-1"}, "expected a number of bytes"),
        (
            b'{"inputs":[{"datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":4}}]}\xff\xff\xff\xff',
            {LENGTH: "81"},
            "ends at byte 4294967299",
        ),
    ],
)
async def test_v2_refuses_what_is_no_request(
    client: httpx.AsyncClient, body: bytes, headers: dict[str, str], sentence: str
) -> None:
    response = await client.post(INFER, content=body, headers=headers)
    assert response.status_code == 400
    assert sentence in response.json()["message"]


async def test_a_picture_as_it_is_is_refused_with_where_it_can_go(client: httpx.AsyncClient) -> None:
    for path in ("/v1/models/model:predict", INFER):
        response = await client.post(path, content=PICTURES[0], headers={"Content-Type": "image/jpeg"})
        assert response.status_code == 400
        assert "is not JSON but image/jpeg: put the picture into JSON, in base64, or" in response.json()["message"]


async def test_v2_in_bytes_without_the_header_is_refused_with_its_name(client: httpx.AsyncClient) -> None:
    raw = struct.pack("<I", len(PICTURES[0])) + PICTURES[0]
    described = tensor(shape=[1], data=None, parameters={"binary_data_size": len(raw)})
    response = await client.post(INFER, content=json.dumps({"inputs": [described]}).encode() + raw)
    assert response.status_code == 400
    assert f"the header {LENGTH} has to say how long that is" in response.json()["message"]


async def test_the_requests_that_the_readme_shows_are_answered(client: httpx.AsyncClient) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    shown = re.findall(r'^\{"inputs": .*\}$', readme, re.MULTILINE)
    assert len(shown) == 2
    for text in shown:
        response = await client.post(INFER, content=text.replace("BASE64", encoded(PICTURES[0])))
        assert response.status_code == 200, response.text
