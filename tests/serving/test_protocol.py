"""What a connection may make the server keep, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Request, Response

from serving.__main__ import bind
from serving.server import Server

pytestmark = pytest.mark.anyio

DEADLINE_S = 20.0
GET = b"GET /ping HTTP/1.1\r\nHost: kennel\r\n"


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Of a server that is impatient, so that nobody waits half a minute here."""
    monkeypatch.setattr("serving.protocol.STALLED_S", 0.2)
    monkeypatch.setattr("serving.protocol.SILENT_S", 0.4)
    app = FastAPI()

    async def echo(request: Request) -> Response:
        return Response(str(len(await request.body())))

    app.add_api_route("/ping", lambda: Response("pong"))
    app.add_api_route("/refuse", lambda: Response("no", 503), methods=["POST"])
    app.add_api_route("/echo", echo, methods=["POST"])
    app.add_api_route("/large", lambda: Response(bytes(50_000_000)))
    with bind("127.0.0.1", 0) as listener:
        server = Server(app)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        yield int(listener.getsockname()[1])
        server.should_exit = True
        await running


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """What came before the server hung up, which it has to."""
    async with asyncio.timeout(DEADLINE_S):
        received = b""
        try:
            while data := await reader.read(1 << 20):
                received += data
        except ConnectionResetError:
            pass
        return received


@pytest.mark.parametrize("sent", [b"", GET[:10], GET, b"POST /refuse HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"])
async def test_a_connection_on_which_nothing_comes_any_more_is_closed(port: int, sent: bytes) -> None:
    reader, writer = await connect(port)
    writer.write(sent)
    received = await until_closed(reader)
    assert received.startswith(b"HTTP/1.1 503") is (b"refuse" in sent)
    writer.close()


async def test_a_head_that_comes_byte_by_byte_is_not_waited_for(port: int) -> None:
    reader, writer = await connect(port)
    closed = asyncio.create_task(until_closed(reader))
    for byte in GET * 1000:
        if closed.done():
            break
        writer.write(bytes([byte]))
        await asyncio.sleep(0.01)
    assert await closed == b""
    writer.close()


@pytest.mark.parametrize(
    "pieces",
    [
        [GET, *[b"X-Filler: " + b"x" * 1000 + b"\r\n"] * 100],
        [GET + b"X-Filler: ", *[b"x" * 1000] * 100],
        [b"GET /" + b"x" * 1000, *[b"x" * 1000] * 100],
        [b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", *[b"X: " + b"x" * 1000 + b"\r\n"] * 100],
        [b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", *[b"x" * 1000] * 100],
    ],
    ids=["headers", "value", "path", "trailers", "chunk-extension"],
)
async def test_a_head_without_end_is_refused(port: int, pieces: list[bytes]) -> None:
    reader, writer = await connect(port)
    closed = asyncio.create_task(until_closed(reader))
    for piece in pieces:
        if closed.done() or writer.is_closing():
            break
        writer.write(piece)
        await asyncio.sleep(0.001)  # so that it arrives in pieces, as more than one buffer of it would
    received = await closed
    assert received.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert json.loads(received.partition(b"\r\n\r\n")[2])["message"]
    writer.close()


async def test_what_is_no_http_gets_a_sentence_in_json(port: int) -> None:
    reader, writer = await connect(port)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # TLS
    head, _, content = (await until_closed(reader)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n")
    assert json.loads(content)["error"] == "bad_request"
    writer.close()


async def test_a_caller_that_does_not_read_its_answer_is_cut_off(port: int) -> None:
    reader, writer = await connect(port)
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's streams would read ahead
    writer.write(GET.replace(b"/ping", b"/large") + b"\r\n")
    await asyncio.sleep(0.5)  # a caller's patience, not ours
    reader._transport.resume_reading()  # type: ignore[attr-defined]
    assert len(await until_closed(reader)) < 50_000_000
    writer.close()


async def test_a_body_in_tiny_chunks_and_many_requests_on_one_connection_are_answered(port: int) -> None:
    reader, writer = await connect(port)
    chunks = b"1\r\nx\r\n" * 30_000 + b"0\r\n\r\n"
    for _ in range(3):
        writer.write(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        writer.write(GET + b"\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readuntil(b"30000")).startswith(b"HTTP/1.1 200 ")
            assert (await reader.readuntil(b"pong")).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_large_body_is_not_taken_for_the_head_of_the_next_request(port: int) -> None:
    reader, writer = await connect(port)
    for _ in range(3):
        writer.write(b"POST /echo HTTP/1.1\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"  # the head was read alone
            writer.write(bytes(200_000))
            assert (await reader.readuntil(b"200000")).startswith(b"HTTP/1.1 200 ")
    writer.close()
