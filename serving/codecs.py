"""Content types in, content types out: two tables, one row a format.

A reader makes pixels of a request body, a writer makes a response body of logits. A new format is a new row.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.bundle import InputSpec
from serving.engines import Logits
from serving.errors import EngineError, InvalidInput, NotAcceptable, UnsupportedContentType
from serving.preprocess import Pixels, preprocess

CUSTOM_ATTRIBUTES: Final = "X-Amzn-SageMaker-Custom-Attributes"

Reader = Callable[[bytes, InputSpec], Pixels]
"""Pixels (H, W, 3) of a body; raises InvalidInput."""


@dataclass(frozen=True)
class Writer:
    """How one content type is written."""

    content_type: str
    write: Callable[[Logits, Sequence[str], int, float], bytes]
    """Body from logits (K,), the labels of them in order, how many labels are wanted, the bundle's temperature."""


def select_reader(content_type: str | None, content_encoding: str | None = None) -> Reader:
    """The reader of what a request declares; parameters such as `; charset=` are no matter.

    Raises:
        UnsupportedContentType: Nobody reads it, or nothing is declared.
    """
    accepted = " or ".join(name for name in READERS if name != "image/jpg")
    if not content_type:
        raise UnsupportedContentType(f"the request has no Content-Type, expected {accepted}")
    reader = READERS.get(_essence(content_type))
    if reader is None:
        raise UnsupportedContentType(f"Content-Type {_shortened(content_type)} is not read here, expected {accepted}")
    if content_encoding and _essence(content_encoding) != "identity":
        raise UnsupportedContentType(
            f"Content-Encoding {_shortened(content_encoding)} is not read here, send the body as it is"
        )
    return reader


def select_writer(accept: str | None) -> Writer:
    """The writer a request likes best: highest q-value, then the more exact range, then the order of `WRITERS`.

    Source: RFC 9110, section 12.5.1.

    Raises:
        NotAcceptable: It likes none.
    """
    if not accept or not accept.strip():
        return WRITERS[0]
    ranges = dict(_media_range(part) for part in accept.split(","))
    best: tuple[float, int] = (0.0, 0)
    chosen: Writer | None = None
    for writer in WRITERS:
        kind = writer.content_type.split("/")[0]
        # the most exact range that covers a type decides on it, also when it says q=0
        for exactness, name in ((3, writer.content_type), (2, f"{kind}/*"), (1, "*/*")):
            if name in ranges:
                if ranges[name] > 0 and (ranges[name], exactness) > best:
                    best, chosen = (ranges[name], exactness), writer
                break
    if chosen is None:
        offered = " or ".join(writer.content_type for writer in WRITERS)
        raise NotAcceptable(f"Accept {_shortened(accept)} asks for what is not written here, expected {offered}")
    return chosen


def select_top_k(attributes: str | None, default: int) -> int:
    """How many labels custom attributes ask for, as in `top_k=3,trace=abc`; other keys are the caller's own.

    Raises:
        InvalidInput: It is not a whole number from 1.
    """
    if not attributes:
        return default
    pairs = dict(part.strip().partition("=")[::2] for part in attributes.split(","))
    value = pairs.get("top_k")
    if value is None:
        return default
    digits = value.strip().lstrip("0")
    if not (digits.isascii() and digits.isdecimal()):
        raise InvalidInput(f"top_k in {CUSTOM_ATTRIBUTES} is {_shortened(value)}, expected a whole number from 1")
    return int(digits[:9])  # more than there are labels means all of them


def write_json(logits: Logits, labels: Sequence[str], top_k: int, temperature: float) -> bytes:
    """`{"predictions": [{"label", "index", "probability"}, ...]}`, the most probable first.

    The order is that of the logits: where probabilities round to the same number, their order would be the index's.

    Raises:
        EngineError: The logits are not finite, so they rank nothing.
    """
    probabilities = softmax(logits, temperature)
    ranked = np.argsort(-logits, kind="stable")[:top_k]
    predictions = [
        {"label": labels[index], "index": int(index), "probability": round(float(probabilities[index]), 8)}
        for index in ranked
    ]
    return json.dumps({"predictions": predictions}, ensure_ascii=False).encode()


def write_npy(logits: Logits, *_unused: object) -> bytes:
    """Raw logits as float32 (1, K) in NumPy's format: what clients of AWS's own PyTorch container expect."""
    buffer = io.BytesIO()
    np.save(buffer, logits[np.newaxis].astype(np.float32), allow_pickle=False)
    return buffer.getvalue()


def softmax(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of logits (K,), divided by `temperature` first.

    Raises:
        EngineError: The logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise EngineError("the engine answered logits that are not finite")
    exponentials = np.exp((logits.astype(np.float64) - float(logits.max())) / temperature)
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum()
    return probabilities


READERS: Final[Mapping[str, Reader]] = {"image/jpeg": preprocess, "image/jpg": preprocess, "image/png": preprocess}
"""By content type. `image/jpg` does not exist officially and is sent all the same."""

WRITERS: Final[Sequence[Writer]] = (Writer("application/json", write_json), Writer("application/x-npy", write_npy))
"""The first is the default."""


def _essence(value: str) -> str:
    return value.partition(";")[0].strip().lower()


def _media_range(part: str) -> tuple[str, float]:
    """`text/html;q=0.5` -> (`text/html`, 0.5); a q that is no number counts as 0."""
    quality = 1.0
    for parameter in part.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                quality = min(1.0, float(value))
            except ValueError:
                quality = 0.0
    return _essence(part), quality


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
