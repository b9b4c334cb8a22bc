"""What `make bench-serve` makes of what it measures; measuring itself takes half an hour and is not a test."""

import math
import os
import re
import signal
import subprocess
import threading
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.bench import figures, load, servers
from tests.bench.figures import Figure, Round
from tests.bench.load import Load, Pings
from tests.bench.servers import PEERS, ROOT, SERVERS, Memory

WRK = """Running 10s test @ http://127.0.0.1:8080/invocations
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   720.94ms   85.70ms   1.09s    81.25%
    Req/Sec     9.10      4.55    20.00     70.00%
  150 requests in 10.00s, 40.51KB read
  Non-2xx or 3xx responses: 30
Requests/sec:     15.00
Transfer/sec:      4.05KB

{"requests": 150, "duration_us": 10000000, "refused": 30, "broken": 2, "p50_us": 720938, "p90_us": 1085698, "p99_us": 1085958}
"""  # noqa: E501 - as it is printed
BOUNDS = {"onnx_batch_1_images_per_s": 17.0, "onnx_batch_8_images_per_s": 20.0, "camera_preprocess_ms": 45.0}


def make_round(rate: float, p50_ms: float = 80.0, *, refused: int = 0, ping_ms: float = 5.0) -> Round:
    of = Load(rate, p50_ms, 2 * p50_ms, 1.5 * p50_ms, refused, broken=0)
    memory = Memory(pss_mb=300, rss_mb=400)
    return Round(2.0, dict.fromkeys(figures.CONNECTIONS, of), ping_ms, ping_ms, memory, replace(of, requests_per_s=6.0))


def judged(rates: dict[str, float], ping_ms: float = 5.0) -> dict[str, Figure]:
    summaries = {name: figures.summarise([make_round(rate, ping_ms=ping_ms)]) for name, rate in rates.items()}
    return {figure.name: figure for figure in figures.judge(summaries, BOUNDS, None)}


def test_answers_that_are_not_200_are_no_throughput() -> None:
    assert load.parse(WRK) == Load(12.0, p50_ms=720.938, p90_ms=1085.698, p99_ms=1085.958, refused=30, broken=2)


def test_a_server_that_answered_nobody_was_not_fast() -> None:
    nothing = (
        '{"requests": 0, "duration_us": 3000000, "refused": 0, "broken": 0, "p50_us": 0, "p90_us": 0, "p99_us": 0}'
    )
    assert load.parse(nothing) == Load(0.0, math.inf, math.inf, math.inf, refused=0, broken=0)


def test_wrk_without_a_result_is_an_error_that_shows_what_it_printed() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        load.parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_a_ratio_is_to_the_best_framework_and_not_to_the_usual_script() -> None:
    found = judged({"kennel": 15.5, "kennel-int8": 22.0, "usual": 12.0, "litserve": 10.0, "bentoml": 8.0})
    fp32 = found["throughput at 8 connections, fp32, by the best server framework's"]
    assert (fp32.value, fp32.verdict) == (1.55, "met")
    int8 = found["throughput at 8 connections, int8, by the best server framework's"]
    assert (int8.value, int8.verdict) == (2.2, "MISSED")
    usual = found["the same by the usual script's"]
    assert usual.value == pytest.approx(15.5 / 12)
    assert usual.verdict == "MISSED"
    bare = found["the same by the bare engine's"]
    assert (bare.value, bare.verdict) == (0.775, "MISSED")  # of the better batch size


@pytest.mark.parametrize(("ping_ms", "verdict"), [(50.0, "met"), (50.1, "MISSED"), (math.inf, "MISSED")])
def test_a_figure_with_an_upper_limit_is_met_up_to_it(ping_ms: float, verdict: str) -> None:
    assert judged({"kennel": 15.0}, ping_ms)["/ping at 32 connections, the slowest"].verdict == verdict


def test_what_was_not_measured_stays_in_the_list_and_says_so() -> None:
    found = judged({"litserve": 10.0})
    assert {figure.verdict for name, figure in found.items() if name != "decode and resize 3000x2250 px"} == {
        "not measured"
    }
    assert "not measured" in found["cpu image"].line()
    assert found["decode and resize 3000x2250 px"].verdict == "met"


def test_rounds_become_medians_but_the_worst_ping_and_the_sum_of_failures() -> None:
    rounds = [make_round(10, ping_ms=1, refused=1), make_round(12, ping_ms=90), make_round(30, ping_ms=2)]
    found = figures.summarise(rounds)
    assert (found.requests_per_s[8], found.ping_max_ms, found.ping_p99_ms) == (12, 90, 2)
    assert found.burnt_share == 0.5
    assert found.failures == 4  # of three loads and the one beside a burner


@pytest.mark.parametrize(
    "answer",
    [
        {"predictions": [{"label": "bee", "probability": 0.7}, {"label": "ant", "probability": 0.2}]},
        [{"predictions": [{"label": "bee", "probability": 0.7}, {"label": "ant", "probability": 0.2}]}],
        {"ant": 0.2, "bee": 0.7},
    ],
)
def test_the_best_label_is_found_in_the_answers_of_all_servers(answer: object) -> None:
    assert servers.best_label(answer) == "bee"


def test_packages_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sentence = "wrk and java is needed and not there: apt-get install wrk openjdk-17-jre-headless"
    assert servers.missing(list(SERVERS)) == sentence
    assert "java" not in servers.missing([server for server in SERVERS if server.is_kennel])


class Health(BaseHTTPRequestHandler):
    """Well, then not, then well again."""

    protocol_version = "HTTP/1.1"
    codes = (200, 503, 200)
    asked = 0
    all_asked = threading.Event()

    def do_GET(self) -> None:
        self.send_response(self.codes[min(Health.asked, len(self.codes) - 1)])
        self.send_header("Content-Length", "0")
        self.end_headers()
        Health.asked += 1
        if Health.asked > len(self.codes):
            Health.all_asked.set()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


def test_a_ping_that_is_not_200_counts_as_no_answer() -> None:
    server = HTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with Pings(server.server_port, "/ping") as pings:
        assert Health.all_asked.wait(30)
    server.shutdown()
    thread.join()
    server.server_close()
    assert [math.isinf(milliseconds) for milliseconds in pings.milliseconds[:3]] == [False, True, False]
    assert math.isinf(pings.max_ms)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("sleep 300 & echo $!", id="whose parent has ended"),
        pytest.param("setsid sleep 300 & echo $!; wait", id="in a session of its own"),
    ],
)
def test_processes_of_a_server_are_found_and_stopped(script: str) -> None:
    shell = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert shell.stdout is not None
    child = int(shell.stdout.readline())
    try:
        started = servers.processes(shell.pid)
        assert child in {process.number for process in started}
        servers.stop(shell)
        assert not any(servers.is_alive(process) for process in started | servers.processes(shell.pid))
    finally:
        shell.stdout.close()
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("name", sorted(path.name for path in PEERS.iterdir() if (path / "requirements.in").exists()))
def test_peers_compute_with_the_very_packages_that_kennel_has(name: str) -> None:
    own, lock = ((folder / "requirements.txt").read_text() for folder in (ROOT / "tests", PEERS / name))
    for package in ("torch", "torchvision", "numpy", "pillow"):
        (pinned,) = re.findall(rf"^{package}==\S+", own, re.MULTILINE)
        assert f"\n{pinned} " in lock
    packages, hashed = (len(re.findall(form, lock, re.MULTILINE)) for form in (r"^\S+==", r"^\S+==.*\\\n +--hash="))
    assert packages == hashed > 0
    assert "index-url" not in lock
    assert name in {server.name for server in SERVERS}
