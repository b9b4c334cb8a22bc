"""Requests that are right, one of each kind that the server reads, and what they become when somebody means harm."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from tests.support import images
from tests.support.wire import Request

INVOCATIONS: Final = "/invocations"
PREDICT: Final = "/v1/models/model:predict"
INFER: Final = "/v2/models/model/infer"
JSON_LENGTH: Final = "Inference-Header-Content-Length"
ATTRIBUTES: Final = "X-Amzn-SageMaker-Custom-Attributes"
BOUNDARY: Final = "kennel"
NPY: Final = "application/x-npy"


def encoded(data: bytes) -> str:
    """As base64."""
    return base64.b64encode(data).decode()


def npy(array: NDArray[Any]) -> bytes:
    """As NumPy writes an array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_header(shape: str, dtype: str = "|u1", content: bytes = b"") -> bytes:
    """An array that claims to be of that shape."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def form(*files: bytes) -> bytes:
    """A form with these files and a field."""
    parts = [b'Content-Disposition: form-data; name="note"\r\n\r\nhello']
    parts += [b'Content-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + content for content in files]
    boundary = f"--{BOUNDARY}".encode()
    return b"".join(boundary + b"\r\n" + part + b"\r\n" for part in parts) + boundary + b"--\r\n"


def pictures() -> dict[str, list[bytes]]:
    """Files of every format by content type, in the modes that take decoders different ways."""
    noise = Image.fromarray(images.noise(60, 80))
    frames = [Image.fromarray(images.noise(40, 50, seed=seed)) for seed in range(3)]
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(images.noise(30, 40)[:, :, 0].astype(np.uint16) * 257)
    encode = images.encode
    return {
        "image/jpeg": [
            encode(noise, "JPEG", quality=95),
            encode(noise, "JPEG", progressive=True, exif=exif),
            encode(noise.convert("CMYK"), "JPEG"),
            encode(noise.convert("L"), "JPEG", restart_marker_blocks=2),
        ],
        "image/png": [
            encode(noise, "PNG"),
            encode(noise.convert("RGBA"), "PNG"),
            encode(noise.quantize(16), "PNG", transparency=3),
            encode(deep, "PNG"),
            encode(noise.convert("1"), "PNG"),
        ],
        "image/webp": [
            encode(noise, "WEBP"),
            encode(noise, "WEBP", lossless=True, exif=exif),
            encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        ],
        "image/bmp": [encode(noise, "BMP"), encode(noise.quantize(16), "BMP"), encode(noise.convert("1"), "BMP")],
        "image/gif": [encode(noise, "GIF"), encode(frames[0], "GIF", save_all=True, append_images=frames[1:])],
        "image/tiff": [
            encode(noise, "TIFF"),
            *(encode(noise, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
            encode(noise.convert("1"), "TIFF", compression="group4"),
            encode(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        ],
    }


def corpus() -> list[Request]:
    """Requests of every content type and protocol; each is answered."""
    files = pictures()
    made = [_invocation(name, data) for name, several in files.items() for data in several]
    jpeg, png = files["image/jpeg"][0], files["image/png"][0]
    made += [_invocation(name, jpeg) for name in ("image/jpg", "application/octet-stream", "application/x-image")]
    pixels = images.noise(40, 30)
    floats = np.moveaxis(pixels, 2, 0).astype(np.float32) / np.float32(255)
    batch = np.stack([pixels, pixels[::-1]]).astype(np.float64) / 255
    made += [_invocation(NPY, npy(array)) for array in (pixels, floats, batch, np.asfortranarray(pixels))]
    texts = [encoded(jpeg), encoded(png)]
    for content in ({"image": texts[0]}, {"images": texts}, {"instances": [{"b64": text} for text in texts]}):
        made.append(_invocation("application/json", json.dumps(content).encode()))
    lines = "\n".join(json.dumps({"image": text}) for text in texts).encode()
    made.append(_invocation("application/jsonlines", lines))
    made.append(_invocation(f"multipart/form-data; boundary={BOUNDARY}", form(jpeg, png)))
    made.append(Request(PREDICT, {}, json.dumps({"instances": [{"b64": text} for text in texts]}).encode()))
    return made + _inferences(texts, [jpeg, png], pixels, floats)


def _invocation(content_type: str, body: bytes) -> Request:
    return Request(INVOCATIONS, {"Content-Type": content_type, "Accept": NPY}, body)


def _inferences(
    texts: list[str], files: list[bytes], pixels: NDArray[np.uint8], floats: NDArray[np.float32]
) -> list[Request]:
    """The Open Inference Protocol's ways to send pictures: as text and as bytes, encoded and as numbers."""
    elements = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    return [
        _inference("BYTES", [2], data=texts),
        _inference("UINT8", [40, 30, 3], data=pixels.tolist()),
        _inference("FP32", [1, 3, 40, 30], data=floats.ravel().tolist()),
        _inference("BYTES", [2], tail=elements),
        _inference("UINT8", [40, 30, 3], tail=pixels.tobytes()),
        _inference("FP32", [3, 40, 30], tail=floats.astype("<f4").tobytes()),
    ]


def _inference(datatype: str, shape: list[int], data: Any = None, tail: bytes = b"") -> Request:
    tensor: dict[str, Any] = {"name": "pictures", "datatype": datatype, "shape": shape}
    tensor |= {"parameters": {"binary_data_size": len(tail)}} if tail else {"data": data}
    asked = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "label"}]
    head = json.dumps({"id": "a", "inputs": [tensor], "outputs": asked}).encode()
    return Request(INFER, {JSON_LENGTH: str(len(head))} if tail else {}, head + tail)


EXTREMES: Final[list[Any]] = [
    None, True, -1, 0, 2**31, 2**63, 10**30, 1e308, "", "\ud800", "\x00", "x" * 5000, [], {}, [[]], [1] * 100,
    [0, 10**30], [-1, -1, 3], {"b64": {"b64": "AA=="}}, {"b64": ""}, float("nan"), "UINT8", "FP64", "BYTES",
]  # fmt: skip
"""What a value of JSON may be replaced by."""
SHAPES: Final = (
    "()", "(0, 3)", "(0, 99999999999999999999999, 3)", "(-1, -1, 3)", "(-4, -30, 3)", f"({'1, ' * 100})", "(2**9,)",
    "(99999, 99999, 3)", "(9223372036854775807, 9223372036854775807, 3)", "(1, 1, 3)", "[1, 1, 3]", "None", "('a',)",
    "(True, True, 3)", "(1.5, 2, 3)",
)  # fmt: skip
DESCRIPTIONS: Final = ("|u1", "<f8", ">f4", "|O", "|S5", "|V8", "<m8[s]", "<f2", "<c16", "|b1", "(2,)<f4", "no", "")
HEADERS: Final[list[tuple[str, str]]] = [
    ("Content-Type", "multipart/form-data"),
    ("Content-Type", "multipart/form-data; boundary=" + "b" * 71),
    ("Content-Type", "multipart/form-data; boundary*=utf-8''%ff%00"),
    ("Content-Type", "\xff\xfe/\x80; charset=none"),
    ("Content-Type", ";" * 3000),
    ("Content-Encoding", "gzip"),
    ("Accept", "*/*;q=nan, text/csv;q=1e999"),
    ("Accept", "," * 3000),
    ("Accept", "text/csv"),
    (ATTRIBUTES, "top_k=" + "9" * 3000),
    (ATTRIBUTES, "top_k=-1"),
    (ATTRIBUTES, "pixel_range=normalized, top_k=0"),
    (ATTRIBUTES, "pixel_range=\xff"),
    (JSON_LENGTH, "0"),
    (JSON_LENGTH, "-1"),
    (JSON_LENGTH, "99999999999"),
    (JSON_LENGTH, "1e3"),
    ("traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-zz"),
    ("X-Request-Id", "\x80" * 64),
    ("Upgrade", "websocket"),
    ("Expect", "100-continue"),
]


def flip_bits(generator: Generator, body: bytes, _: Sequence[Request]) -> bytes:
    """A few bits turn over, as on a bad wire."""
    changed = bytearray(body)
    for place in generator.integers(len(body), size=generator.integers(1, 20)):
        changed[place] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def cut(generator: Generator, body: bytes, _: Sequence[Request]) -> bytes:
    """The end, or a piece in the middle, is missing."""
    start, end = sorted(generator.integers(len(body), size=2))
    return body[:start] if generator.random() < 0.5 else body[:start] + body[end:]


def duplicate(generator: Generator, body: bytes, _: Sequence[Request]) -> bytes:
    """A piece comes twice, or many times."""
    start, end = sorted(generator.integers(len(body), size=2))
    return body[:end] + body[start:end] * int(generator.choice([1, 1, 1, 20])) + body[end:]


def splice(generator: Generator, body: bytes, others: Sequence[Request]) -> bytes:
    """It begins as one file and goes on as another."""
    other = others[int(generator.integers(len(others)))].body
    return body[: int(generator.integers(len(body)))] + other[int(generator.integers(len(other))) :]


def set_fields(generator: Generator, body: bytes, _: Sequence[Request]) -> bytes:
    """Numbers in the header become the smallest and the largest that there are."""
    changed = bytearray(body)
    for _count in range(int(generator.integers(1, 4))):
        size = int(generator.choice([1, 2, 4, 8]))
        place = int(generator.integers(min(len(body), int(generator.choice([64, 512, 10**6])))))
        value = int(generator.choice([0x00, 0xFF, 0x7F, 0x80, 0x01]))
        filler = generator.choice([0x00, 0xFF])
        word = bytes([value, *[int(filler)] * (size - 1)])
        changed[place : place + size] = word if generator.random() < 0.5 else word[::-1]
    return bytes(changed)


def randomise(generator: Generator, body: bytes, _: Sequence[Request]) -> bytes:
    """Noise, of any length and sometimes behind the first bytes of a real file."""
    kept = body[: int(generator.choice([0, 0, 4, 12, 64]))]
    return kept + generator.bytes(int(generator.choice([0, 1, 7, 500, 20_000])))


def claim_shape(generator: Generator, body: bytes, _: Sequence[Request]) -> bytes:
    """An array's header that says what cannot be."""
    shape, dtype = generator.choice(SHAPES), generator.choice(DESCRIPTIONS)
    return npy_header(str(shape), str(dtype), body[128:] if generator.random() < 0.5 else b"")


MUTATIONS: Final[Sequence[Callable[[Generator, bytes, Sequence[Request]], bytes]]] = (
    flip_bits,
    cut,
    duplicate,
    splice,
    set_fields,
    randomise,
)


def mutate(generator: Generator, corpus_: Sequence[Request]) -> Request:
    """One of the corpus, spoilt in its body, its headers or both."""
    chosen = corpus_[int(generator.integers(len(corpus_)))]
    if generator.random() < 0.2:
        name, value = HEADERS[int(generator.integers(len(HEADERS)))]
        chosen = replace(chosen, headers={**chosen.headers, name: value})
        if generator.random() < 0.3:
            return chosen
    if chosen.body.startswith(b"{") and generator.random() < 0.6:
        return _change_json(generator, chosen)
    if chosen.body.startswith(b"\x93NUMPY") and generator.random() < 0.4:
        return replace(chosen, body=claim_shape(generator, chosen.body, corpus_))
    change = MUTATIONS[int(generator.integers(len(MUTATIONS)))]
    return replace(chosen, body=change(generator, chosen.body, corpus_))


def _change_json(generator: Generator, request: Request) -> Request:
    """A value of its JSON becomes another; what follows the JSON stays, and so does what is said of its length."""
    length = request.headers.get(JSON_LENGTH, "")
    end = int(length) if length.isdecimal() else len(request.body)
    try:
        content = json.loads(request.body[:end])
    except ValueError:  # lines of JSON, or a length that was changed before
        content = {}
    places = list(_places(content))
    for _count in range(int(generator.integers(1, 3))):
        if places:
            container, key = places[int(generator.integers(len(places)))]
            container[key] = EXTREMES[int(generator.integers(len(EXTREMES)))]
    head = json.dumps(content).encode()
    headers = {**request.headers, **({JSON_LENGTH: str(len(head))} if JSON_LENGTH in request.headers else {})}
    return replace(request, headers=headers, body=head + request.body[end:])


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Where a value could be replaced: not every number of a long list, which would be all that is ever changed."""
    keys = list(content) if isinstance(content, dict) else list(range(min(len(content), 5)))
    found = [(content, key) for key in keys]
    for key in keys:
        if isinstance(content[key], dict | list):
            found += _places(content[key])
    return found
