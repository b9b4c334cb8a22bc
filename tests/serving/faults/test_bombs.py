"""Small bodies that claim, or become, something huge: a sentence comes back, memory is bounded, others are answered."""

import asyncio
import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import pytest
from PIL import Image

from serving.bundle import Bundle
from serving.machine import num_cpus
from serving.preprocess import MAX_PIXELS
from tests.support import bodies, images
from tests.support.bodies import INFER, INVOCATIONS, npy_header
from tests.support.figures import RecordFigure
from tests.support.processes import MB, peak_bytes, reset_peak, resident_bytes
from tests.support.servers import Server, serving, wait_for
from tests.support.wire import Answer, Connection, Request

PING: Final = Request("/ping", method="GET")
PING_S: Final = 2.0
"""SageMaker's own limit."""
REFUSED_MB: Final = 64
"""What refusing may take, beside the body itself: nothing is decoded."""
DECODED_MB: Final = 1400
"""What the largest picture that is read may take on its way: WebP's decoder has several canvases, each of 256 MB."""
GROWTH: Final = 1.1
SIDE: Final = 8000
"""Of the largest square that is read."""
AT_ONCE: Final = 4


def png(width: int, height: int, *chunks: bytes, content: bytes = b"") -> bytes:
    """A PNG that claims to be of that size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", content), chunk(b"IEND", b"")]
    )


def chunk(name: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def inflating(size_bytes: int) -> bytes:
    """A thousandth of it, which inflates to all of it."""
    return zlib.compress(bytes(size_bytes), 9)


def patched(data: bytes, *fields: tuple[int, bytes]) -> bytes:
    """With other bytes at some places."""
    changed = bytearray(data)
    for place, content in fields:
        changed[place : place + len(content)] = content
    return bytes(changed)


def gif(width: int, height: int) -> bytes:
    """A small canvas with a frame that claims to be larger."""
    made = bytearray(images.encode(Image.new("P", (8, 8)), "GIF"))
    frame = made.index(b"\x2c")
    made[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(made)


def jpeg(width: int, height: int) -> bytes:
    """A JPEG that claims to be of that size."""
    made = images.jpeg()
    size = made.index(b"\xff\xc0") + 5
    return patched(made, (size, struct.pack(">HH", height, width)))


def tiff(width: int, height: int) -> bytes:
    """A TIFF that claims to be of that size."""
    made = images.encode(Image.new("L", (77, 99)), "TIFF")
    for old, new in ((77, width), (99, height)):
        tag = 0x0100 if old == 77 else 0x0101
        for kind in (3, 4):
            made = made.replace(struct.pack("<HHII", tag, kind, 1, old), struct.pack("<HHII", tag, 4, 1, new))
    return made


def webp(width: int, height: int) -> bytes:
    """A WebP whose canvas claims to be of that size."""
    made = images.encode(Image.new("RGBA", (8, 8)), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    canvas = made.index(b"VP8X") + 12
    return patched(made, (canvas, (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")))


def bmp(width: int, height: int) -> bytes:
    """A BMP that claims to be of that size."""
    return patched(images.encode(Image.new("RGB", (8, 8)), "BMP"), (18, struct.pack("<ii", width, height)))


def in_json(picture: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(picture).decode()}).encode()


def tensor(**fields: object) -> Request:
    """To be inferred: an array of floats that claims what it likes."""
    described = {"name": "x", "datatype": "FP32", "shape": [1, 3, 4, 5], "data": [0.5] * 60} | fields
    return Request(INFER, {}, json.dumps({"inputs": [described]}).encode())


def invocation(content_type: str, body: bytes) -> Request:
    return Request(INVOCATIONS, {"Content-Type": content_type}, body)


JSON: Final = "application/json"
FORM: Final = f"multipart/form-data; boundary={bodies.BOUNDARY}"
REFUSED: Final[dict[str, Callable[[], Request]]] = {
    "a PNG of 60,000 x 60,000": lambda: invocation("image/png", png(60_000, 60_000, content=inflating(10**7))),
    "a PNG of 2^31 x 2^31": lambda: invocation("image/png", png(2**31 - 1, 2**31 - 1)),
    "a PNG that really is of 9,000 x 9,000": lambda: invocation("image/png", images.png_bomb(9000)),
    "a PNG with a profile of 100 MB": lambda: invocation(
        "image/png", png(8, 8, chunk(b"iCCP", b"p\0\0" + inflating(10**8)), content=zlib.compress(bytes(200)))
    ),
    "a PNG with a text of 100 MB": lambda: invocation(
        "image/png", png(8, 8, chunk(b"zTXt", b"t\0\0" + inflating(10**8)), content=zlib.compress(bytes(200)))
    ),
    "a PNG of 100,000 x 1": lambda: invocation("image/png", images.encode(Image.new("L", (100_000, 1)), "PNG")),
    "a PNG of 100,000 x 600": lambda: invocation("image/png", images.encode(Image.new("1", (100_000, 600)), "PNG")),
    "a TIFF of 1 x 100,000": lambda: invocation("image/tiff", images.encode(Image.new("L", (1, 100_000)), "TIFF")),
    "a BMP of 100,000 x 8": lambda: invocation("image/bmp", images.encode(Image.new("1", (100_000, 8)), "BMP")),
    "a GIF of 65,535 x 65,535": lambda: invocation("image/gif", gif(65_535, 65_535)),
    "a JPEG of 65,500 x 65,500": lambda: invocation("image/jpeg", jpeg(65_500, 65_500)),
    "a TIFF of 2^31 x 2^31": lambda: invocation("image/tiff", tiff(2**31 - 1, 2**31 - 1)),
    "a WebP of 16,384 x 16,384": lambda: invocation("image/webp", webp(16_384, 16_384)),
    "a BMP of 2^31 x 2^31": lambda: invocation("image/bmp", bmp(2**31 - 1, 2**31 - 1)),
    "a PNG in JSON": lambda: invocation(JSON, in_json(images.png_bomb(9000))),
    "an array of 100,000 x 100,000": lambda: invocation(bodies.NPY, npy_header("(100000, 100000, 3)", "<f8", b"0")),
    "an array of 2^64 sides": lambda: invocation(bodies.NPY, npy_header(f"({2**64}, {2**64}, 3)")),
    "an array of nothing, 2^64 wide": lambda: invocation(bodies.NPY, npy_header(f"(0, {2**64}, 3)")),
    "an array of negative sides": lambda: invocation(bodies.NPY, npy_header("(-1, -1, 3)", content=b"abc")),
    "an array whose header is nested": lambda: invocation(bodies.NPY, npy_header("(" * 1900 + ")" * 1900)),
    "an array in JSON": lambda: invocation(JSON, in_json(npy_header("(100000, 100000, 3)"))),
    "a tensor of 2^62 values": lambda: tensor(shape=[2**31 - 1, 2**31 - 1]),
    "a tensor of 20,000 sides": lambda: tensor(shape=[2**30] * 20_000),
    "a tensor with a long text in it": lambda: tensor(data=["x" * 10**6] + [1] * 10**4),
    "JSON 100,000 lists deep": lambda: invocation(JSON, b"[" * 100_000),
    "JSON 100,000 objects deep": lambda: invocation(JSON, b'{"image":' * 100_000),
    "JSON of 8 million lists": lambda: invocation(JSON, b'{"images":[' + b"[]," * 8_000_000 + b"[]]}"),
    "JSON of 8 million objects": lambda: invocation(JSON, b'{"images":[' + b"{}," * 8_000_000 + b"{}]}"),
    "JSON of 12 million numbers": lambda: invocation(JSON, b'{"images":[' + b"0," * 12_000_000 + b"0]}"),
    "JSON of one number of 24 million digits": lambda: invocation(JSON, b"1" * 24_000_000),
    "a form of 200,000 files": lambda: invocation(FORM, bodies.form(*[b"x"] * 200_000)),
    "a part with 3 million headers": lambda: invocation(FORM, b"--kennel\r\n" + b"a: b\r\n" * 3_000_000),
}
LARGEST: Final[dict[str, Callable[[], bytes]]] = {
    "16-bit PNG": lambda: images.encode(Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)), "PNG"),
    "PNG with transparency": lambda: images.encode(Image.new("RGBA", (SIDE, SIDE)), "PNG", compress_level=1),
    "TIFF with transparency": lambda: images.encode(
        Image.new("RGBA", (SIDE, SIDE)), "TIFF", compression="tiff_deflate"
    ),
    "progressive JPEG": lambda: images.encode(Image.new("RGB", (SIDE, SIDE)), "JPEG", progressive=True),
    "CMYK JPEG": lambda: images.encode(Image.new("CMYK", (SIDE, SIDE)), "JPEG"),
    "GIF": lambda: images.encode(Image.new("P", (SIDE, SIDE)), "GIF"),
    "WebP with transparency": lambda: images.encode(
        Image.new("RGBA", (SIDE, SIDE)), "WEBP", lossless=True, method=0, quality=0
    ),
}
"""Of as many pixels as are read."""


@pytest.fixture(scope="module")
def own(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose memory nobody else fills."""
    with serving(bundle.folder, tmp_path_factory.mktemp("own") / "log") as running:
        running.wait_until_ready()
        for _ in range(20):
            running.post(images.jpeg())
        yield running


async def ask_beside_pings(port: int, requests: Sequence[Request]) -> tuple[list[Answer], float]:
    """The answers to requests sent at once, and the longest time in s that /ping took meanwhile."""
    asked = asyncio.Event()

    async def ping() -> float:
        longest_s = 0.0
        loop = asyncio.get_running_loop()
        async with Connection(port) as connection:
            while not asked.is_set():
                started = loop.time()
                assert (await connection.ask(PING)).status_code == 200
                longest_s = max(longest_s, loop.time() - started)
        return longest_s

    async def ask(request: Request) -> Answer:
        async with Connection(port) as connection:
            return await connection.ask(request)

    pinging = asyncio.create_task(ping())
    answers = await asyncio.gather(*(ask(request) for request in requests))
    asked.set()
    return answers, await pinging


@pytest.mark.parametrize("name", REFUSED)
def test_what_claims_too_much_is_refused_in_a_sentence_before_it_takes_memory(own: Server, name: str) -> None:
    request = REFUSED[name]()
    before = reset_peak(own.process.pid)
    (answer,), ping_s = asyncio.run(ask_beside_pings(own.port, [request]))
    assert answer.status_code in {400, 413}, answer.body
    assert set(json.loads(answer.body)) == {"error", "message"}
    grown = peak_bytes(own.process.pid) - before - 3 * len(request.body)  # as it arrives, joined, and read as text
    assert grown / MB < REFUSED_MB
    assert ping_s < PING_S


@pytest.mark.slow
def test_the_largest_pictures_that_are_read_take_a_bounded_memory_which_comes_back(
    own: Server, record_figure: RecordFigure
) -> None:
    assert SIDE**2 <= MAX_PIXELS
    wait_for(lambda: resident_bytes(own.process.pid) < 250 * MB, "what came before to be given back")
    before = resident_bytes(own.process.pid)
    for name, make in LARGEST.items():
        picture = make()
        resident = reset_peak(own.process.pid)
        requests = [invocation("application/octet-stream", picture)] * AT_ONCE
        answers, ping_s = asyncio.run(ask_beside_pings(own.port, requests))
        assert {answer.status_code for answer in answers} == {200}
        grown = (peak_bytes(own.process.pid) - resident) / MB
        record_figure(
            f"{AT_ONCE} at once, {name} of {SIDE} x {SIDE} px in {len(picture) / 1000:.0f} kB: {grown:.0f} MB more, "
            f"/ping within {ping_s:.2f} s"
        )
        assert grown < DECODED_MB * min(AT_ONCE, num_cpus())
        assert ping_s < PING_S
    wait_for(lambda: resident_bytes(own.process.pid) < GROWTH * before, f"{before / MB:.0f} MB resident as before")


def test_a_bomb_opens_as_what_it_claims_to_be() -> None:
    """Else it would be refused for another reason."""
    for make, name in ((gif, "GIF"), (jpeg, "JPEG"), (tiff, "TIFF"), (bmp, "BMP")):
        with Image.open(io.BytesIO(make(40_000, 30_000))) as opened:
            assert (opened.format, opened.size) == (name, (40_000, 30_000))
