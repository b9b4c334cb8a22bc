"""A real server process, over real connections: what a person with curl would see."""

import http.client
import signal
import socket
from pathlib import Path

import httpx
import pytest

from serving.bundle import Bundle
from tests.support import images
from tests.support.bundles import pack
from tests.support.servers import Server, forked_serving, serving, wait_for


@pytest.fixture(scope="module")
def jpeg_20_mb() -> bytes:
    return images.huge_jpeg(20 * 10**6)


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("body", "content_type", "status_code", "word"),
    [
        pytest.param(halved(images.jpeg()), "image/jpeg", 400, "invalid_input", id="truncated JPEG"),
        pytest.param(b"<!doctype html><p>Not found", "image/jpeg", 400, "invalid_input", id="page saved as JPEG"),
        pytest.param(b"", "image/jpeg", 400, "invalid_input", id="empty body"),
        pytest.param(bytes(26 * 2**20), "image/jpeg", 413, "payload_too_large", id="26 MB"),
        pytest.param(images.png_bomb(9000), "image/png", 400, "invalid_input", id="decompression bomb"),
        pytest.param(b"PK\x03\x04", "application/zip", 415, "unsupported_content_type", id="unknown content type"),
    ],
)
def test_a_bad_body_is_refused_in_one_sentence_and_the_next_good_one_answered(
    server: Server, body: bytes, content_type: str, status_code: int, word: str
) -> None:
    response = server.post(body, content_type)
    assert (response.status_code, response.json()["error"]) == (status_code, word)
    assert set(response.json()) == {"error", "message"}
    assert server.post(images.jpeg()).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status_code"), [("POST", "/invocation", 404), ("GET", "/invocations", 405)]
)
def test_a_wrong_path_and_a_wrong_method_are_refused_and_the_connection_goes_on(
    server: Server, method: str, path: str, status_code: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path)
    response = connection.getresponse()
    assert response.status == status_code
    assert response.headers["Content-Type"] == "application/json"
    response.read()
    connection.request("POST", "/invocations", images.jpeg(), {"Content-Type": "image/jpeg"})
    assert connection.getresponse().status == 200
    connection.close()


def test_a_valid_jpeg_of_20_mb_is_answered(server: Server, jpeg_20_mb: bytes) -> None:
    assert len(jpeg_20_mb) > 19 * 10**6
    assert server.post(jpeg_20_mb).status_code == 200


def test_a_large_body_is_refused_before_it_is_sent_when_the_client_asks_first(server: Server) -> None:
    """As curl does above 1 MB."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: kennel\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_the_platforms_limit_holds_when_it_sets_one(bundle: Bundle, tmp_path: Path) -> None:
    with forked_serving(bundle.folder, tmp_path / "log", SAGEMAKER_MAX_PAYLOAD_IN_MB="1") as server:
        server.wait_until_ready()
        assert server.post(images.jpeg() + bytes(2**20)).status_code == 413


def test_a_model_archive_is_served_as_its_folder_is(server: Server, bundle: Bundle, tmp_path: Path) -> None:
    archive = pack(bundle.folder, tmp_path / "model.tar.gz")
    with forked_serving(archive, tmp_path / "log") as packed:
        packed.wait_until_ready()
        assert packed.post(images.jpeg()).json() == server.post(images.jpeg()).json()


def send(server: Server, picture: bytes) -> socket.socket:
    """A connection on which a whole request was sent and no answer read."""
    head = (
        f"POST /invocations HTTP/1.1\r\nHost: kennel\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(f"{head}\r\n".encode() + picture)
    return connection


def answer_on(connection: socket.socket) -> tuple[int, bytes]:
    with connection, http.client.HTTPResponse(connection) as response:
        response.begin()
        return response.status, response.read()


def test_a_stop_answers_what_is_under_way(bundle: Bundle, tmp_path: Path) -> None:
    """More than the decoders can do at once, so that most of it waits when the signal comes."""
    with forked_serving(bundle.folder, tmp_path / "log") as server:
        server.wait_until_ready()
        picture = images.encode(images.noise(3000, 4000), quality=80)
        connections = [send(server, picture) for _ in range(12)]
        assert server.stop() == 0
        for connection in connections:
            status_code, body = answer_on(connection)
            assert (status_code, b"predictions" in body) == (200, True)
        assert "Traceback" not in server.log


def test_a_stop_answers_what_the_kernel_had_received_and_the_server_not_yet_read(
    bundle: Bundle, tmp_path: Path
) -> None:
    with forked_serving(bundle.folder, tmp_path / "log") as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGSTOP)
        connections = [send(server, images.jpeg(seed=seed)) for seed in range(8)]
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        assert [answer_on(connection)[0] for connection in connections] == [200] * 8
        assert server.process.wait(60) == 0


def test_a_stop_while_the_model_loads_exits_0(bundle: Bundle, tmp_path: Path) -> None:
    with serving(bundle.folder, tmp_path / "log") as server:
        assert server.stop() == 0


def test_a_hangup_before_anybody_can_reload_is_made_up_for(bundle: Bundle, tmp_path: Path) -> None:
    with serving(bundle.folder, tmp_path / "log") as server:
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.log.count("model ready") == 2, "the bundle to be opened twice")
        assert server.post(images.jpeg()).status_code == 200
        assert server.stop() == 0


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping_is_answered_however_a_load_balancer_asks(server: Server, method: str) -> None:
    response = httpx.request(method, f"{server.url}/ping", timeout=20)
    assert (response.status_code, response.content) == (200, b"")


def test_a_line_of_log_about_a_request_names_it(bundle: Bundle, tmp_path: Path) -> None:
    with serving(bundle.folder, tmp_path / "log") as server:
        server.wait_until_ready()
        assert server.post(b"no picture", **{"X-Request-Id": "order-17"}).status_code == 400
        line = next(line for line in server.log.splitlines() if ": 400 " in line)
        assert line.endswith(" [request order-17]")
