"""What an operator sees: measurements, log lines, ids, traces, deadlines."""

import asyncio
import json
import logging
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from serving import logs
from serving.app import create_app
from serving.bundle import Bundle
from serving.headers import CUSTOM_ATTRIBUTES
from serving.models import Models
from serving.settings import ServerSettings
from tests.serving.test_batching import Held, invoke, until
from tests.support import images
from tests.support.apps import Message, connected, post_messages
from tests.support.bundles import LABELS
from tests.support.servers import forked_serving

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def samples(client: httpx.AsyncClient) -> dict[str, float]:
    """Of /metrics, by name and labels as Prometheus writes them."""
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_metrics_count_answers_refusals_and_what_was_predicted(client: httpx.AsyncClient) -> None:
    answers = [(await invoke(client, images.jpeg(seed=seed))).json()["predictions"] for seed in range(3)]
    await invoke(client, b"no picture")
    await client.get("/nowhere/at/all")
    found = await samples(client)
    assert found["kennel_requests_total{code=200,route=/invocations}"] == 3
    assert found["kennel_requests_total{code=400,route=/invocations}"] == 1
    assert found["kennel_requests_total{code=404,route=other}"] == 1
    assert found["kennel_refusals_total{error=invalid_input}"] == 1
    assert found["kennel_decode_failures_total"] == 1
    for phase in ("decode", "queue", "model"):
        assert found[f"kennel_phase_seconds_count{{phase={phase}}}"] == 3
    assert found["kennel_batch_pictures_sum"] == 3
    assert found["kennel_request_seconds_count{route=/invocations}"] == 4
    assert found["kennel_confidence_count{model=model}"] == 3
    assert found["kennel_confidence_sum{model=model}"] == pytest.approx(
        sum(answer[0]["probability"] for answer in answers), abs=1e-6
    )
    for label in LABELS:
        expected = sum(answer[0]["label"] == label for answer in answers)
        assert found.get(f"kennel_predictions_total{{label={label},model=model}}", 0) == expected
    assert found["kennel_queue_pictures"] == found["kennel_requests_under_way"] == 0
    assert found["process_resident_memory_bytes"] > 0


async def test_metrics_show_what_waits(bundle: Bundle) -> None:
    held = Held()
    settings = ServerSettings(model=bundle.folder)
    async with connected(create_app(settings, Models(settings, held.load))) as client:
        held.let_go.clear()
        tasks = [asyncio.create_task(invoke(client, images.jpeg())) for _ in range(3)]
        await until(lambda: held.batch_sizes == [1])
        async with asyncio.timeout(20):
            while (await samples(client))["kennel_queue_pictures"] < 2:  # noqa: ASYNC110 - decoding is elsewhere
                await asyncio.sleep(0)
        found = await samples(client)
        assert found["kennel_requests_under_way"] == 3
        assert found["kennel_bytes_under_way"] == 3 * len(images.jpeg())
        held.let_go.set()
        assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200] * 3


async def test_openmetrics_is_written_for_whoever_asks(client: httpx.AsyncClient) -> None:
    await invoke(client, images.jpeg())
    response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert "application/openmetrics-text" in response.headers["content-type"]
    families = parse_openmetrics(response.text)  # type: ignore[no-untyped-call]  # prometheus_client's
    assert {"kennel_requests", "kennel_confidence"} <= {family.name for family in families}


async def test_an_answer_says_who_gave_it_and_where_the_time_went(client: httpx.AsyncClient, bundle: Bundle) -> None:
    """In the header that SageMaker hands on, and in those that other platforms do."""
    headers = {"Content-Type": "image/jpeg", "X-Amzn-SageMaker-Inference-Id": "order-17"}
    answer = await client.post("/invocations", content=images.jpeg(), headers=headers)
    attributes = dict(part.split("=") for part in answer.headers[CUSTOM_ATTRIBUTES].split(", "))
    assert attributes["request_id"] == answer.headers["x-request-id"] == "order-17"
    assert attributes["model"] == bundle.manifest.sha256[:12]
    assert attributes["engine"] == "onnx"
    assert float(attributes["model_ms"]) > 0
    assert re.fullmatch(r"decode;dur=[\d.]+, queue;dur=[\d.]+, model;dur=[\d.]+", answer.headers["server-timing"])


@pytest.mark.parametrize("given", ["a b", "x" * 65, "caf\u00e9", "", "a\tb"])
async def test_an_id_that_could_not_stand_in_a_log_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/ping", headers={b"X-Request-Id": given.encode("latin-1")})
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"01-{TRACE}-00f067aa0ba902b7-01-later", TRACE),
        (f"00-{TRACE}-00f067aa0ba902b7-01-later", ""),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", ""),
        ("00-x-y-z", ""),
        ("", ""),
    ],
)
def test_a_trace_is_taken_over_where_it_is_valid(traceparent: str, trace_id: str) -> None:
    context = logs.make_context("", traceparent)
    assert context.trace_id == trace_id
    assert bool(context.traceparent) is bool(trace_id)


def test_json_log_lines_name_the_request_and_its_trace(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with forked_serving(bundle.folder, log, "--log-format", "json", "--log-requests", "true") as server:
        server.wait_until_ready()
        named = {"X-Request-Id": "order-17", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        assert server.post(images.jpeg(), **named).status_code == 200
        assert server.post(b"no picture", **named).status_code == 400
        assert server.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    ours = [line for line in lines if line.get("request_id") == "order-17"]
    assert {line["trace_id"] for line in ours} == {TRACE}
    answered = [line for line in ours if line["logger"] == "serving.middleware"]
    assert [(line["status"], line["route"]) for line in answered] == [(200, "/invocations"), (400, "/invocations")]
    assert all(line["duration_ms"] > 0 for line in answered)
    assert any("model ready" in line["message"] for line in lines)
    assert any(line["message"].startswith("400 ") for line in ours)


def test_an_exception_is_one_line_of_json() -> None:
    error = ZeroDivisionError("of\nlines")
    record = logging.makeLogRecord({"msg": "failed", "exc_info": (type(error), error, None)})
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    assert "ZeroDivisionError: of" in json.loads(line)["exception"]


async def test_what_is_late_is_503_and_never_reaches_the_engine(bundle: Bundle) -> None:
    held = Held()
    settings = ServerSettings(model=bundle.folder, deadline_s=0.2)
    async with connected(create_app(settings, Models(settings, held.load))) as client:
        held.let_go.clear()
        late = await asyncio.gather(*(invoke(client, images.jpeg()) for _ in range(3)))
        assert {(answer.status_code, answer.json()["error"]) for answer in late} == {(503, "deadline_passed")}
        assert late[0].headers["retry-after"]
        assert "within 0.2 s" in late[0].json()["message"]
        held.let_go.set()
        assert (await invoke(client, images.jpeg())).status_code == 200
    assert held.batch_sizes == [1, 1]


async def test_a_caller_that_hangs_up_is_counted(app: FastAPI) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async with connected(app) as client:
        await post_messages(app, receive)
        assert (await samples(client))["kennel_refusals_total{error=caller_gone}"] == 1


async def test_only_pictures_count_as_decode_failures(client: httpx.AsyncClient) -> None:
    """What drifts with a camera is counted apart from clients that send other things."""
    await invoke(client, b"")
    await client.post("/invocations", json={"picture": 1})
    await client.post("/invocations", json={"images": []})
    await client.post("/invocations", json={"images": ["bm8gcGljdHVyZQ=="]})
    assert (await samples(client))["kennel_decode_failures_total"] == 2


def test_a_line_of_log_is_one_line_that_moves_no_cursor() -> None:
    record = logging.makeLogRecord({"msg": "404 %s", "args": ("/x\x1b[31m\r\nINFO\u2028forged",)})
    line = logs.TextFormatter(logs.TEXT).format(record)
    assert line.isprintable()
    assert line.endswith("404 /x [31m  INFO forged")
