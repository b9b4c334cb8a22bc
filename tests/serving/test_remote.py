"""Pictures by URL: from whom they are fetched, and from whom not."""

import asyncio
import datetime as dt
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving import logs
from serving.app import create_app
from serving.bundle import Bundle
from serving.errors import InvalidInput
from serving.remote import Fetcher, Remote, is_public
from serving.settings import ServerSettings
from tests.support import images
from tests.support.apps import connected

pytestmark = pytest.mark.anyio

MAX_BYTES = 100_000


class Handler(BaseHTTPRequestHandler):
    """Answers by path; keeps the headers that it was sent."""

    seen: list[dict[str, str]] = []  # noqa: RUF012 - one test at a time

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers))
        if self.path == "/moved.jpg":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.end_headers()
        elif self.path == "/missing.jpg":
            self.send_error(404)
        elif self.path == "/stuck.jpg":
            self.send_response(200)
            self.end_headers()
            self.connection.recv(1)  # until the other side hangs up
        else:
            body = images.jpeg() if self.path.startswith("/dog.jpg") else b"x" * (MAX_BYTES + 1)
            promised = len(body) + (7 if self.path == "/short.jpg" else 0)
            self.send_response(200)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(body[: MAX_BYTES // 2] if self.path == "/short.jpg" else body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening(context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def port() -> Iterator[int]:
    Handler.seen.clear()
    with listening() as port:
        yield port


def fetcher(port: int, timeout_s: float = 20.0) -> Fetcher:
    """One that may connect to this machine, as no real one may."""
    return Fetcher([f"localhost:{port}"], MAX_BYTES, timeout_s, may_connect=lambda _: True)


async def test_a_picture_of_an_allowed_host_comes_as_it_is(port: int) -> None:
    assert await fetcher(port).fetch(Remote(f"http://LOCALHOST:{port}/dog.jpg?size=1")) == images.jpeg()
    assert Handler.seen[0]["Host"] == f"localhost:{port}"


async def test_the_callers_trace_goes_along(port: int) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    logs.current.set(logs.make_context("", f"00-{trace}-00f067aa0ba902b7-01"))
    await fetcher(port).fetch(Remote(f"http://localhost:{port}/dog.jpg"))
    version, trace_id, span_id, flags = Handler.seen[0]["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", trace, "01")
    assert span_id != "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("moved.jpg", r"answered with 302, which says it is at 'http://169.254.169.254/.*send that URL"),
        ("missing.jpg", "answered with 404"),
        ("large.jpg", f"more than the {MAX_BYTES} bytes"),
        ("short.jpg", "was cut short"),
    ],
)
async def test_what_is_no_whole_picture_of_that_host_is_refused(port: int, path: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        await fetcher(port).fetch(Remote(f"http://localhost:{port}/{path}"))
    assert len(Handler.seen) == 1


async def test_a_host_that_takes_too_long_is_given_up_and_keeps_no_thread(port: int) -> None:
    impatient = fetcher(port, timeout_s=0.2)
    for _ in range(9):  # one more than there are threads
        with pytest.raises(InvalidInput, match=r"did not come within 0.2 s|cannot be fetched"):
            await impatient.fetch(Remote(f"http://localhost:{port}/stuck.jpg"))
    patient = impatient._timeout_s = 20.0
    async with asyncio.timeout(patient):
        assert await impatient.fetch(Remote(f"http://localhost:{port}/dog.jpg"))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://elsewhere/dog.jpg", "not among --url-hosts"),
        ("http://localhost/dog.jpg", "not among --url-hosts"),
        ("http://localhost.evil.example:1/dog.jpg", "not among --url-hosts"),
        ("http://localhost:1@evil.example/dog.jpg", "no URL of http or https"),
        ("file:///etc/passwd", "no URL of http or https"),
        ("ftp://localhost:1/dog.jpg", "no URL of http or https"),
        ("http://localhost:1/a b\r\nX-Evil: 1", "no URL"),
        ("http://localhost:port/", "no URL"),
        ("http://[::1/", "no URL"),
        ("http://localhost:1/caf\u00e9", "no URL"),
        ("", "no URL"),
    ],
)
async def test_any_other_url_is_refused_before_anybody_is_asked(url: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        await fetcher(1).fetch(Remote(url))


async def test_an_allowed_name_that_leads_to_a_private_address_is_refused(port: int) -> None:
    """A name's owner decides to which address it leads."""
    real = Fetcher([f"localhost:{port}"], MAX_BYTES, 20.0)
    with pytest.raises(InvalidInput, match="not of the internet"):
        await real.fetch(Remote(f"http://localhost:{port}/dog.jpg"))
    assert not Handler.seen


async def test_no_host_is_allowed_unless_the_operator_says_so() -> None:
    with pytest.raises(InvalidInput, match="--url-hosts"):
        await Fetcher([], MAX_BYTES, 20.0).fetch(Remote("http://localhost/dog.jpg"))


async def test_a_host_whose_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    with listening(context) as port, pytest.raises(InvalidInput, match="SSLCertVerificationError"):
        await fetcher(port).fetch(Remote(f"https://localhost:{port}/dog.jpg"))


def self_signed(folder: Path) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    no_password = serialization.NoEncryption()
    path = folder / "self-signed.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password) + certificate.public_bytes(pem)
    )
    return path


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
    ],
)
async def test_only_addresses_of_the_internet_are_public(address: str, expected: bool) -> None:
    assert is_public(address) is expected


async def test_a_picture_by_url_is_labelled_as_its_bytes_are(
    bundle: Bundle, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.remote.is_public", lambda _: True)
    monkeypatch.setattr(Fetcher.__init__, "__defaults__", (lambda _: True,))
    settings = ServerSettings(model=bundle.folder, url_hosts=f"example.com, localhost:{port}")
    async with connected(create_app(settings)) as client:
        by_url = await client.post("/invocations", json={"url": f"http://localhost:{port}/dog.jpg"})
        lines = "\n".join(json.dumps({"url": f"http://localhost:{port}/dog.jpg?{number}"}) for number in range(20))
        many = await client.post("/invocations", content=lines, headers={"Content-Type": "application/jsonlines"})
        as_bytes = await client.post("/invocations", content=images.jpeg(), headers={"Content-Type": "image/jpeg"})
    assert by_url.json() == as_bytes.json()
    assert many.json()["predictions"] == [as_bytes.json()["predictions"]] * 20


async def test_a_server_that_was_told_no_hosts_says_so(bundle: Bundle) -> None:
    async with connected(create_app(ServerSettings(model=bundle.folder))) as client:
        refused = await client.post("/invocations", json={"url": "http://localhost/dog.jpg"})
    assert refused.status_code == 400
    assert "--url-hosts" in refused.json()["message"]


async def test_a_connection_cannot_be_made_to_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(InvalidInput, match="cannot be fetched: ConnectionRefusedError"):
        await fetcher(port).fetch(Remote(f"http://localhost:{port}/dog.jpg"))
