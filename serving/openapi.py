"""The parts of /openapi.json that FastAPI cannot read off signatures, since bodies here are bytes."""

from typing import Any, Final

from serving.headers import CUSTOM_ATTRIBUTES
from serving.readers import READERS
from serving.writers import WRITERS

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
_RANKED: Final = {"type": "array", "items": _PREDICTION, "description": "the most probable first"}
_PREDICTIONS: Final = {
    "type": "object",
    "required": ["predictions"],
    "properties": {
        "predictions": {
            "oneOf": [_RANKED, {"type": "array", "items": _RANKED, "description": "where several pictures can be sent"}]
        }
    },
}
_BASE64: Final = {"type": "string", "format": "byte"}
_INSTANCE: Final = {"type": "object", "required": ["b64"], "properties": {"b64": _BASE64}}
_PICTURES: Final = {
    "oneOf": [
        {"type": "object", "required": [name], "properties": {name: schema}}
        for name, schema in (
            ("image", _BASE64),
            ("images", {"type": "array", "items": _BASE64}),
            ("instances", {"type": "array", "items": _INSTANCE}),
        )
    ]
}
_FORM: Final = {"type": "object", "properties": {"files": {"type": "array", "items": _BINARY}}}
_BODIES: Final[dict[str, Any]] = {
    "application/json": _PICTURES,
    "application/jsonlines": {"type": "string", "description": "an object with one picture on each line"},
    "multipart/form-data": _FORM,
}
_ANSWERS: Final[dict[str, Any]] = {
    "application/json": _PREDICTIONS,
    "application/jsonlines": {"type": "string", "description": "a line for each picture"},
    "text/csv": {"type": "string", "description": "picture, rank, label, index, probability"},
}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    """What a request has to bring, by content type."""
    return {"requestBody": {"required": True, "content": content}}


INVOCATION: Final[dict[str, Any]] = {
    **_body({name: {"schema": _BODIES.get(name, _BINARY)} for name in READERS}),
    "parameters": [
        {
            "name": CUSTOM_ATTRIBUTES,
            "in": "header",
            "schema": {"type": "string"},
            "description": (
                "`top_k=3` asks for three labels, `pixel_range=normalized` says what floats are; other keys are ignored"
            ),
        }
    ],
}
"""What `POST /invocations` takes."""

ANSWER: Final[dict[str, Any]] = {
    "description": "The ranked labels; as application/x-npy the raw logits, float32 (N, K)",
    "content": {writer.content_type: {"schema": _ANSWERS.get(writer.content_type, _BINARY)} for writer in WRITERS},
}
"""What it answers."""

JSON_ANSWER: Final[dict[str, Any]] = {
    "description": "The ranked labels",
    "content": _json(_PREDICTIONS),
}
"""The same, where JSON is all there is."""

_BYTES: Final = {"application/octet-stream": {"schema": _BINARY}}
_ANY: Final = _json({"type": "object"})
OBJECT: Final[dict[str, Any]] = {"description": "What was asked for", "content": _ANY}
"""An answer whose form belongs to its protocol."""

LOAD: Final = _body(
    _json(
        {
            "type": "object",
            "required": ["model_name", "url"],
            "properties": {"model_name": {"type": "string"}, "url": {"type": "string"}},
        }
    )
)
"""What `POST /models` takes."""

PREDICT: Final = _body(_json(_PICTURES))
"""What KServe's v1 protocol sends."""

_TENSOR: Final = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "description": "BYTES, UINT8, FP32 or FP64"},
        "parameters": {"type": "object"},
        "data": {"type": "array"},
    },
}
_REQUESTED: Final = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
}
INFER: Final = _body(
    _json(
        {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string"},
                "parameters": {"type": "object"},
                "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
                "outputs": {"type": "array", "items": _REQUESTED},
            },
        }
    )
    | _BYTES
)
"""What the Open Inference Protocol sends; with binary tensors, JSON and then their bytes."""

INFERRED: Final[dict[str, Any]] = {
    "description": "Label, probabilities and logits as tensors, those that were asked for",
    "content": _ANY | _BYTES,
}
"""What it is answered."""

METRICS: Final[dict[str, Any]] = {
    "description": "Prometheus's text format, or OpenMetrics where it is asked for",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}

CARD: Final[dict[str, Any]] = {
    "description": "The bundle's card",
    "content": _json(
        {
            "type": "object",
            "properties": {
                "architecture": {"type": "string"},
                "labels": {"type": "array", "items": {"type": "string"}},
                "test_accuracy": {"type": "number"},
                "calibration_error": {"type": ["number", "null"]},
                "width": {"type": "integer"},
                "height": {"type": "integer"},
                "engine": {"type": "string"},
                "created": {"type": "string", "format": "date-time"},
                "has_activation_map": {"type": "boolean"},
            },
        }
    ),
}
"""What the model is."""

MAP_REQUEST: Final[dict[str, Any]] = {
    "requestBody": INVOCATION["requestBody"],
    "parameters": [
        {
            "name": "label",
            "in": "query",
            "schema": {"type": "integer", "minimum": 0},
            "description": "index of the label in question; default: the most probable",
        }
    ],
}
"""What `POST /activation-map` takes: what `/invocations` takes, with one picture."""

_SHARE: Final = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
ACTIVATION_MAP: Final[dict[str, Any]] = {
    "description": "What each place of the picture says for the label",
    "content": _json(
        {
            "type": "object",
            "required": ["label", "index", "rows", "range", "seen"],
            "properties": {
                "label": {"type": "string"},
                "index": {"type": "integer", "minimum": 0},
                "rows": {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
                    "description": "from top to bottom, from left to right; 0 is the least of all, 1 the most",
                },
                "range": {
                    "type": "object",
                    "required": ["least", "most"],
                    "properties": {"least": {"type": "number"}, "most": {"type": "number"}},
                    "description": "what 0 and 1 stand for; the mean of all, with the label's bias, is its logit",
                },
                "seen": {
                    "type": "object",
                    "required": ["width", "height"],
                    "properties": {"width": _SHARE, "height": _SHARE},
                    "description": (
                        "the rectangle that the map covers, in the middle of the upright picture; in shares of the "
                        "picture's shorter side"
                    ),
                },
            },
        }
    ),
}
"""What it answers."""

EXECUTION_PARAMETERS: Final[dict[str, Any]] = {
    "description": "Limits; the transform job's own win over them",
    "content": _json(
        {
            "type": "object",
            "properties": {
                "MaxConcurrentTransforms": {"type": "integer", "minimum": 1},
                "BatchStrategy": {"type": "string"},
                "MaxPayloadInMB": {"type": "integer", "minimum": 1},
            },
        }
    ),
}
"""Source: SageMaker Developer Guide, "How Containers Serve Requests" in batch transform."""


def refusal(*reasons: str) -> dict[str, Any]:
    """An error answer, for any of `reasons`."""
    return {"description": " Or: ".join(reasons), "content": _json(_ERROR)}
