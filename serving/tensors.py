"""The Open Inference Protocol's tensors: a request's pictures in, labels and probabilities out, in JSON or in bytes.

Sources: Open Inference Protocol v2, "Inference Request/Response JSON Object"; its binary tensor data extension, where
the bytes of all tensors follow the JSON in order, and each element of a BYTES tensor has its length before it.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.arrays import check_shape, split
from serving.errors import InvalidInput
from serving.headers import shortened
from serving.preprocess import check_count
from serving.readers import (
    Body,
    Decode,
    Pictures,
    find_pixel_range,
    from_array,
    from_base64,
    from_bytes,
    kind_of,
    parse_json,
)
from serving.writers import Answer, softmax

JSON_LENGTH: Final = "Inference-Header-Content-Length"
INPUT: Final = "pictures"
"""What the metadata calls the input; a request may call it anything."""
PICTURE: Final = "BYTES"
DTYPES: Final[Mapping[str, str]] = {"UINT8": "|u1", "FP32": "<f4", "FP64": "<f8"}
OUTPUTS: Final[Mapping[str, str]] = {"label": "BYTES", "probabilities": "FP32", "logits": "FP32"}
"""Datatype of each output by name."""
DEFAULT_OUTPUTS: Final = ("label", "probabilities")
LENGTH: Final = struct.Struct("<I")
"""Before each element of a BYTES tensor."""
MAX_SIDES: Final = 8
MAX_SIDE: Final = 2**31 - 1


@dataclass
class Inference:
    """One request and its answer.

    Args:
        json_bytes: Length of the JSON at the beginning of the body; None: all of it.
    """

    json_bytes: int | None = None
    request_id: str | None = None
    outputs: list[tuple[str, bool]] = field(default_factory=list)
    """Name of each output asked for, and whether it is wanted in bytes."""

    def read(self, body: Body) -> Pictures:
        """Pictures of the input tensor; keeps what the answer has to know.

        Raises:
            InvalidInput: It is no such request.
        """
        if self.json_bytes is not None and self.json_bytes > len(body.data):
            raise InvalidInput(f"the JSON is said to have {self.json_bytes} bytes, and {len(body.data)} came")
        request = _object(_parse(body.data, self.json_bytes), "the request")
        rest = memoryview(body.data)[len(body.data) if self.json_bytes is None else self.json_bytes :]
        parameters = _object(request.get("parameters", {}), "parameters")
        self.request_id = _text(request["id"], "id") if "id" in request else None
        self.outputs = _read_outputs(request.get("outputs", []), parameters)
        inputs = request.get("inputs")
        if not isinstance(inputs, list) or len(inputs) != 1:
            raise InvalidInput(f"inputs is {kind_of(inputs)}, expected a list of one tensor")
        given = {name: value for name, value in parameters.items() if isinstance(value, str)}
        decoders = _read_tensor(_object(inputs[0], "inputs[0]"), rest, Body(b"", {}, given, body.pixel_range))
        check_count(len(decoders))
        return Pictures(decoders, is_single=False)

    def write(self, answer: Answer, model_name: str, model_version: str) -> tuple[bytes, dict[str, str]]:
        """The body and its headers."""
        tensors, blobs = [], []
        for name, is_binary in self.outputs:
            tensor: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name]}
            values = MAKERS[name](answer)
            tensor["shape"] = list(values.shape)
            if is_binary:
                blobs.append(_to_bytes(values))
                tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
            else:
                tensor["data"] = values.ravel().tolist()
            tensors.append(tensor)
        named = {"model_name": model_name, "model_version": model_version}
        if self.request_id is not None:
            named["id"] = self.request_id
        # In ASCII: half a surrogate pair is a valid JSON text, so a valid id, and has no UTF-8.
        head = json.dumps(named | {"outputs": tensors}).encode()
        if not blobs:
            return head, {"Content-Type": "application/json"}
        headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(head))}
        return b"".join([head, *blobs]), headers


def _parse(data: bytes, json_bytes: int | None) -> Any:
    try:
        return parse_json(data[:json_bytes], "the request")
    except InvalidInput as error:
        if json_bytes is not None or not data.lstrip().startswith(b"{"):
            raise
        raise InvalidInput(
            f"{error}; where a tensor's bytes follow the JSON, the header {JSON_LENGTH} has to say how long that is"
        ) from error


def _read_outputs(asked: Any, parameters: Mapping[str, Any]) -> list[tuple[str, bool]]:
    if not isinstance(asked, list):
        raise InvalidInput(f"outputs is {kind_of(asked)}, expected a list")
    by_default = parameters.get("binary_data_output") is True
    found: list[tuple[str, bool]] = []
    for place, entry in enumerate(asked):
        output = _object(entry, f"outputs[{place}]")
        name = _text(output.get("name"), f"outputs[{place}].name")
        if name not in OUTPUTS:
            raise InvalidInput(f"outputs[{place}] is {shortened(name)}, expected {', '.join(OUTPUTS)}")
        if name in (already for already, _ in found):  # or the answer would be as long as the caller likes
            raise InvalidInput(f"outputs asks for {name} twice")
        own = _object(output.get("parameters", {}), f"outputs[{place}].parameters")
        found.append((name, own.get("binary_data", by_default) is True))
    return found or [(name, by_default) for name in DEFAULT_OUTPUTS]


def _read_tensor(tensor: Mapping[str, Any], rest: memoryview, said: Body) -> Sequence[Decode]:
    datatype = _text(tensor.get("datatype"), "the tensor's datatype")
    size = _object(tensor.get("parameters", {}), "the tensor's parameters").get("binary_data_size")
    if size is not None and size != len(rest):
        raise InvalidInput(f"binary_data_size is {size!r:.40}, and {len(rest)} bytes follow the JSON")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side <= MAX_SIDE for side in shape):
        raise InvalidInput(f"the tensor's shape is {kind_of(shape)}, expected a list of whole numbers")
    if len(shape) > MAX_SIDES:  # their product would be a number of as many digits
        raise InvalidInput(f"the tensor's shape has {len(shape)} sides, expected at most {MAX_SIDES}")
    count = math.prod(shape)
    if datatype == PICTURE:
        check_count(count)
        return _read_pictures(tensor.get("data") if size is None else _elements(rest), count)
    if datatype not in DTYPES:
        raise InvalidInput(f"the tensor is of {shortened(datatype)}, expected {PICTURE}, {', '.join(DTYPES)}")
    array = _read_numbers(rest, datatype) if size is not None else _read_list(tensor.get("data"), datatype)
    if array.size != count:
        raise InvalidInput(f"the tensor's shape {shape} has {count} values, and {array.size} came")
    check_shape(shape)
    pixel_range = find_pixel_range(said)
    return [partial(from_array, picture, pixel_range) for picture in split(array.reshape(shape))]


def _read_pictures(elements: Any, count: int) -> Sequence[Decode]:
    """Elements may be nested as the shape is, or flat ("Tensor Data" in the protocol)."""
    while isinstance(elements, list) and len(elements) <= count and elements and isinstance(elements[0], list):
        elements = [element for inner in elements if isinstance(inner, list) for element in inner[: count + 1]]
    if not isinstance(elements, list) or len(elements) != count:
        found = f"{len(elements)} elements" if isinstance(elements, list) else kind_of(elements)
        raise InvalidInput(f"the tensor's data is {found}, expected a list of {count} as its shape says")
    if elements and isinstance(elements[0], bytes):
        return [partial(from_bytes, element) for element in elements]
    return [partial(from_base64, _text(element, f"data[{place}]")) for place, element in enumerate(elements)]


def _elements(rest: memoryview) -> list[bytes]:
    """Of a BYTES tensor, each with its length before it."""
    found = []
    start = 0
    while start < len(rest):
        if len(rest) - start < LENGTH.size:
            raise InvalidInput("the tensor's bytes are cut short")
        end = start + LENGTH.size + LENGTH.unpack_from(rest, start)[0]
        if end > len(rest):
            raise InvalidInput(f"an element of the tensor ends at byte {end}, and {len(rest)} came")
        found.append(bytes(rest[start + LENGTH.size : end]))
        start = end
    return found


def _read_numbers(rest: memoryview, datatype: str) -> NDArray[Any]:
    dtype = np.dtype(DTYPES[datatype])
    if len(rest) % dtype.itemsize:
        raise InvalidInput(f"{len(rest)} bytes are no whole number of {datatype} values")
    return np.frombuffer(rest, dtype)


def _read_list(data: Any, datatype: str) -> NDArray[Any]:
    # As objects: left to itself, numpy makes each element as long as the longest text among them.
    values = np.array(data, dtype=object)
    kinds = set(map(type, values.flat))
    if list in kinds:
        raise InvalidInput("the tensor's data is no even list")
    if not kinds <= {int, float}:
        raise InvalidInput(f"the tensor's data is {kind_of(data)} with other than numbers in it")
    try:
        array = values.astype(np.float64)
    except OverflowError as error:
        raise InvalidInput(f"the tensor's data has numbers that no {datatype} can be") from error
    if datatype == "UINT8" and (float in kinds or array.min(initial=0) < 0 or array.max(initial=0) > 255):
        raise InvalidInput("the tensor is of UINT8, and its data has other than whole numbers from 0 to 255")
    with np.errstate(over="ignore"):  # infinities are refused with the pixels
        return array.astype(DTYPES[datatype])


def _to_bytes(values: NDArray[Any]) -> bytes:
    if values.dtype.kind != "O":
        return values.astype("<f4").tobytes()
    texts = [str(value).encode() for value in values]
    return b"".join(LENGTH.pack(len(text)) + text for text in texts)


def _probabilities(answer: Answer) -> NDArray[Any]:
    return np.stack([softmax(row, answer.temperature) for row in answer.logits]).astype(np.float32)


def _labels(answer: Answer) -> NDArray[Any]:
    return np.array([answer.labels[index] for index in answer.logits.argmax(axis=1)], dtype=object)


MAKERS: Final[Mapping[str, Callable[[Answer], NDArray[Any]]]] = {
    "label": _labels,
    "probabilities": _probabilities,
    "logits": lambda answer: answer.logits,
}
"""By name of the output."""


def _object(content: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise InvalidInput(f"{where} is {kind_of(content)}, expected an object")
    return content


def _text(content: Any, where: str) -> str:
    if not isinstance(content, str):
        raise InvalidInput(f"{where} is {kind_of(content)}, expected a text")
    return content
