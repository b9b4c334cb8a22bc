"""Content types out: a table, one row a format. A writer makes a response body of logits.

A new format is a new row.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.engines import Logits
from serving.errors import EngineError


@dataclass(frozen=True)
class Answer:
    """What is to be written."""

    logits: Logits
    """(N, K)"""
    labels: Sequence[str]
    """(K,)"""
    top_k: int
    """So many labels for each picture."""
    temperature: float
    """The bundle's."""
    is_single: bool
    """Whether the request could hold but one picture: then the answer is not a list of answers."""


@dataclass(frozen=True)
class Writer:
    """How one content type is written."""

    content_type: str
    write: Callable[[Answer], bytes]


def write_json(answer: Answer) -> bytes:
    """`{"predictions": [{"label", "index", "probability"}, ...]}`, the most probable first; of several, such lists.

    Raises:
        EngineError: The logits are not finite, so they rank nothing.
    """
    ranked = [_rank(answer, row) for row in answer.logits]
    return _dump({"predictions": ranked[0] if answer.is_single else ranked})


def write_jsonlines(answer: Answer) -> bytes:
    """A line for each picture, as `write_json` writes one picture."""
    return b"".join(_dump({"predictions": _rank(answer, row)}) + b"\n" for row in answer.logits)


def write_csv(answer: Answer) -> bytes:
    """A line for each label of each picture, below a header; pictures count from 0 and ranks from 1."""
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["picture", "rank", "label", "index", "probability"])
    for picture, row in enumerate(answer.logits):
        for rank, entry in enumerate(_rank(answer, row), start=1):
            writer.writerow([picture, rank, entry["label"], entry["index"], f"{entry['probability']:.8f}"])
    return table.getvalue().encode()


def write_npy(answer: Answer) -> bytes:
    """Raw logits as float32 (N, K) in NumPy's format: what clients of AWS's own PyTorch container expect."""
    buffer = io.BytesIO()
    np.save(buffer, answer.logits.astype(np.float32), allow_pickle=False)
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


def _rank(answer: Answer, logits: Logits) -> list[dict[str, Any]]:
    """The order is that of the logits: where probabilities round to the same number, theirs would be the index's."""
    probabilities = softmax(logits, answer.temperature)
    ranked = np.argsort(-logits, kind="stable")[: answer.top_k]
    return [
        {"label": answer.labels[index], "index": int(index), "probability": round(float(probabilities[index]), 8)}
        for index in ranked
    ]


def _dump(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


WRITERS: Final[Sequence[Writer]] = (
    Writer("application/json", write_json),
    Writer("application/jsonlines", write_jsonlines),
    Writer("text/csv", write_csv),
    Writer("application/x-npy", write_npy),
)
"""The first is the default."""
