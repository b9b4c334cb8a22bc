"""Content types in: a table, one row a format. A reader takes a request body apart into pictures still to be decoded.

A new format is a new row. Taking apart is quick and decoding is not, so each picture is a function that makes pixels
of it, to be called in a pool of threads.

Sources: TensorFlow Serving's REST API and KServe's v1 protocol for `instances`; JSON Lines as batch transform splits it
(SageMaker Developer Guide, "Use batch transform", SplitType Line); RFC 7578 for forms.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import python_multipart
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from serving.arrays import read_npy, to_pixels
from serving.bundle import InputSpec
from serving.errors import InvalidInput, UnsupportedContentType
from serving.formats import picture_of
from serving.headers import CUSTOM_ATTRIBUTES, PIXEL_RANGES, PixelRange, parse_content_type, shortened
from serving.preprocess import MAX_PICTURES, Pixels, Preprocess, check_count
from serving.remote import Remote

CURLS_DEFAULT: Final = "application/x-www-form-urlencoded"
MAX_LINES: Final = 4 * MAX_PICTURES
"""Of JSON Lines, blank ones too."""
JSON_LIMITS: Final = (("lists and objects", b"[{", 10**6), ("fields", b":", 10**5), ("values", b",", 4 * 10**6))
"""What a JSON text is made of, the bytes that tell it, and how many there may be: an array of a megapixel fits in every
shape. While pieces are made nobody else is served, and there is room for millions of them in 25 MB."""
MIN_STRIPPED_BYTES: Final = 1000
"""From this length on a picture has a line break among its bytes, whatever took out only those."""
MAX_PARTS: Final = 1024
"""Of a form, files or not."""

Decode = Callable[[InputSpec, Preprocess], Pixels]
"""Pixels (H, W, 3) of one picture; raises InvalidInput."""


@dataclass(frozen=True)
class Body:
    """A request body and what its headers say of it."""

    data: bytes
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Of the content type, such as `boundary`."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """The caller's custom attributes."""
    pixel_range: PixelRange = "unit"
    """What the server takes floats for where the caller does not say."""


@dataclass(frozen=True)
class Pictures:
    """What a body holds."""

    decoders: Sequence[Decode | Remote]
    is_single: bool = True
    """Whether the form of the body can hold but one, so that the answer is not a list of answers."""


Reader = Callable[[Body], Pictures]
"""Takes a body apart; raises InvalidInput."""


def select_reader(content_type: str | None) -> tuple[Reader, dict[str, str]]:
    """The reader of what a request declares, and the parameters of its content type.

    Raises:
        UnsupportedContentType: Nobody reads it, or nothing is declared.
    """
    if not content_type:
        raise UnsupportedContentType(f"the request has no Content-Type, expected {_EXPECTED}")
    name, parameters = parse_content_type(content_type)
    if name not in READERS:
        hint = "; curl says so unless told: -H 'Content-Type: image/jpeg'" if name == CURLS_DEFAULT else ""
        raise UnsupportedContentType(
            f"Content-Type {shortened(content_type)} is not read here, expected {_EXPECTED}{hint}"
        )
    return READERS[name], parameters


def read_picture(body: Body) -> Pictures:
    """The body is a picture; which format it is, its own bytes say."""
    return Pictures([partial(from_body, body.data)])


def read_npy_pictures(body: Body) -> Pictures:
    """The body is an array: a picture or a batch."""
    arrays = read_npy(body.data)
    pixel_range = find_pixel_range(body)
    return Pictures([partial(from_array, array, pixel_range) for array in arrays], is_single=len(arrays) == 1)


def read_json(body: Body) -> Pictures:
    """`{"image": base64}`, `{"images": [base64, ...]}`, `{"instances": [{"b64": base64}, ...]}` or `{"url": URL}`."""
    return _from_object(parse_json(body.data, "the body"))


def read_jsonlines(body: Body) -> Pictures:
    """An object of `read_json` with one picture on each line."""
    if body.data.count(b"\n") > MAX_LINES:
        raise InvalidInput(
            f"the body has more than {MAX_LINES} lines, expected 1 to {MAX_PICTURES} with a picture on each"
        )
    lines = [line for line in body.data.split(b"\n") if line.strip()]
    check_count(len(lines))
    decoders: list[Decode | Remote] = []
    for number, line in enumerate(lines, start=1):
        found = _from_object(parse_json(line, f"line {number}")).decoders
        if len(found) != 1:
            raise InvalidInput(f"line {number} holds {len(found)} pictures, expected one on each line")
        decoders += found
    return Pictures(decoders, is_single=False)


def read_form(body: Body) -> Pictures:
    """Files of a form; fields that are no files are of no matter."""
    boundary = body.parameters.get("boundary", "")
    if not boundary or len(boundary) > 70:  # RFC 2046, section 5.1.1
        raise InvalidInput("Content-Type multipart/form-data has no boundary of 1 to 70 characters")
    files = _Files()
    parser = python_multipart.MultipartParser(boundary.encode("latin-1", "replace"), files.callbacks())
    try:
        parser.write(body.data)
        parser.finalize()
    except MultipartParseError as error:
        raise InvalidInput(f"the form is damaged or cut short: {error}") from error
    if not files.is_whole:
        raise InvalidInput("the form is cut short: its closing boundary is missing")
    check_count(len(files.contents))
    return Pictures([partial(from_bytes, content) for content in files.contents], is_single=len(files.contents) == 1)


class _Files:
    """Collects the parts of a form that have a file name; its methods are the parser's callbacks."""

    def __init__(self) -> None:
        self.contents: list[bytes] = []
        self.is_whole = False
        self._num_parts = 0
        self._field = self._value = b""
        self._is_file = False
        self._chunks: list[bytes] = []

    def callbacks(self) -> Any:
        """By the names that the parser knows."""
        return {name: getattr(self, name) for name in dir(self) if name.startswith("on_")}

    def on_part_begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise InvalidInput(f"the form has more than the {MAX_PARTS} parts that are read")
        self._is_file, self._chunks = False, []

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._is_file = b"filename" in parse_options_header(self._value)[1]
        self._field = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._chunks.append(data[start:end])

    def on_part_end(self) -> None:
        if self._is_file:
            self.contents.append(b"".join(self._chunks))

    def on_end(self) -> None:
        self.is_whole = True


def _from_object(content: Any) -> Pictures:
    if isinstance(content, dict):
        if "url" in content:
            return Pictures([Remote(_url(content["url"]))])
        if "image" in content:
            return Pictures([partial(from_base64, _text(content["image"], "image"))])
        for name in ("images", "instances"):
            if name in content:
                entries = content[name]
                if not isinstance(entries, list):
                    raise InvalidInput(f'"{name}" is {kind_of(entries)}, expected a list')
                check_count(len(entries))
                texts = [_text(entry, f"{name}[{place}]") for place, entry in enumerate(entries)]
                return Pictures([partial(from_base64, text) for text in texts], is_single=False)
    if isinstance(content, dict) and "inputs" in content:
        raise InvalidInput('"inputs" are the Open Inference Protocol\'s, which is answered at /v2/models/NAME/infer')
    found = f" with {shortened(', '.join(map(str, content)))}" if content and isinstance(content, dict) else ""
    raise InvalidInput(
        f'the JSON is {kind_of(content)}{found}, expected {{"image": base64}}, {{"images": [base64, ...]}}, '
        '{"instances": [{"b64": base64}, ...]} or {"url": URL}'
    )


def _url(entry: Any) -> str:
    if not isinstance(entry, str):
        raise InvalidInput(f"url is {kind_of(entry)}, expected a text")
    return entry


def _text(entry: Any, where: str) -> str:
    """Base64 as it is, or inside of one or two objects: `{"b64": ...}`, `{"image_bytes": {"b64": ...}}`."""
    for _ in range(2):
        if isinstance(entry, dict):
            entry = entry["b64"] if "b64" in entry else next(iter(entry.values())) if len(entry) == 1 else entry
    if not isinstance(entry, str):
        raise InvalidInput(f'{where} is {kind_of(entry)}, expected base64 or {{"b64": base64}}')
    return entry


def from_bytes(data: bytes, spec: InputSpec, preprocess: Preprocess) -> Pixels:
    """Pixels of a picture in a file's bytes; see `serving.preprocess.preprocess`."""
    return preprocess(data, spec)


def from_body(data: bytes, spec: InputSpec, preprocess: Preprocess) -> Pixels:
    """Pixels of a picture that is all of a request's body.

    Raises:
        InvalidInput: It cannot be read; with a hint where the caller's tool seems to have changed it.
    """
    try:
        return from_bytes(data, spec, preprocess)
    except InvalidInput as error:
        if not _is_stripped(data):
            raise
        hint = "its line breaks are missing, as curl's -d @FILE leaves them out: send it with --data-binary @FILE"
        raise InvalidInput(f"{error}; {hint}") from error


def _is_stripped(data: bytes) -> bool:
    """Whether somebody took the line breaks out: one in 128 of a picture's bytes is of one, and its head has zeros."""
    has_breaks = b"\n" in data or b"\r" in data
    has_zeros = b"\0" in data or not picture_of(data)
    return not has_breaks and (not has_zeros or len(data) >= MIN_STRIPPED_BYTES)


def from_base64(text: str, spec: InputSpec, preprocess: Preprocess) -> Pixels:
    """Pixels of a picture in base64, or in a data URL.

    Raises:
        InvalidInput: It is neither, or the picture cannot be read.
    """
    data = text.partition(",")[2] if text.startswith("data:") else text  # a page's data URL
    try:
        return preprocess(base64.b64decode(data, validate=True), spec)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"a picture is not base64: {error}") from error


def from_array(array: Any, pixel_range: PixelRange, spec: InputSpec, _: Preprocess) -> Pixels:
    """Pixels of a picture that came as numbers and need no decoding; see `serving.arrays.to_pixels`."""
    return to_pixels(array, spec, pixel_range)


def find_pixel_range(body: Body) -> PixelRange:
    """What floats of a request are: as it says, else as the server says.

    Raises:
        InvalidInput: It says something else.
    """
    asked = body.attributes.get("pixel_range", body.pixel_range)
    found = next((name for name in PIXEL_RANGES if name == asked), None)
    if found is None:
        expected = " or ".join(PIXEL_RANGES)
        raise InvalidInput(f"pixel_range in {CUSTOM_ATTRIBUTES} is {shortened(asked)}, expected {expected}")
    return found


def parse_json(data: bytes, where: str) -> Any:
    """The value of a JSON text.

    Raises:
        InvalidInput: It is none, or of too many pieces; the message calls it `where`.
    """
    for pieces, marks, limit in JSON_LIMITS:
        count = sum(data.count(mark) for mark in marks)
        if count > limit:
            raise InvalidInput(f"{where} is JSON of {count} {pieces}, expected at most {limit}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # also what is not UTF-8
        picture = picture_of(data)
        if picture:
            raise InvalidInput(
                f"{where} is not JSON but {picture}: put the picture into JSON, in base64, or send it as it is to "
                f"/invocations with Content-Type {picture}"
            ) from error
        raise InvalidInput(f"{where} is not JSON: {error}") from error


def check_single(pictures: Pictures) -> Decode | Remote:
    """The only picture of a body.

    Raises:
        InvalidInput: There are more.
    """
    if len(pictures.decoders) != 1:
        raise InvalidInput(f"the body holds {len(pictures.decoders)} pictures, expected one")
    return pictures.decoders[0]


def kind_of(content: Any) -> str:
    """A JSON value's kind, for messages."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(content), "a number")


READERS: Final[Mapping[str, Reader]] = {
    **dict.fromkeys(("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif", "image/tiff"), read_picture),
    **dict.fromkeys(("image/jpg", "application/octet-stream", "application/x-image"), read_picture),
    "multipart/form-data": read_form,
    "application/json": read_json,
    "application/jsonlines": read_jsonlines,
    "application/x-npy": read_npy_pictures,
}
"""By content type. `image/jpg` does not exist officially and is sent all the same; `application/x-image` is what
SageMaker's own image classifier takes."""

_EXPECTED: Final = ", ".join(name for name in READERS if name != "image/jpg")
