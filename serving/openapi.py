"""The parts of /openapi.json that FastAPI cannot read off signatures, since bodies here are bytes."""

from typing import Any, Final

from serving.codecs import CUSTOM_ATTRIBUTES, READERS, WRITERS

_BINARY: Final = {"type": "string", "format": "binary"}
_ERROR: Final = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {
        "error": {"type": "string", "description": "code word, such as invalid_input"},
        "message": {"type": "string", "description": "one sentence: what was found, and what is expected"},
    },
}
_PREDICTION: Final = {
    "type": "object",
    "required": ["label", "index", "probability"],
    "properties": {
        "label": {"type": "string"},
        "index": {"type": "integer", "minimum": 0},
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
    },
}
_PREDICTIONS: Final = {
    "type": "object",
    "required": ["predictions"],
    "properties": {"predictions": {"type": "array", "items": _PREDICTION, "description": "the most probable first"}},
}

INVOCATION: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {name: {"schema": _BINARY} for name in READERS}},
    "parameters": [
        {
            "name": CUSTOM_ATTRIBUTES,
            "in": "header",
            "schema": {"type": "string"},
            "description": "`top_k=3` asks for three labels; other keys are ignored",
        }
    ],
}
"""What `POST /invocations` takes."""

ANSWER: Final[dict[str, Any]] = {
    "description": "The ranked labels; as application/x-npy the raw logits, float32 (1, K)",
    "content": {
        writer.content_type: {"schema": _PREDICTIONS if writer.content_type == "application/json" else _BINARY}
        for writer in WRITERS
    },
}
"""What it answers."""


def refusal(*reasons: str) -> dict[str, Any]:
    """An error answer, for any of `reasons`."""
    return {"description": " Or: ".join(reasons), "content": {"application/json": {"schema": _ERROR}}}
