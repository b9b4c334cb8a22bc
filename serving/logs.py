"""Log lines: for people, or as JSON with the id of the request that they are about.

Source of `traceparent`: W3C, Trace Context, section 3.2.
"""

import json
import logging
import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

LogFormat = Literal["text", "json"]
TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
PLAIN_ID: Final = re.compile(r"[\w.:/+=@-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class RequestContext:
    """By what a request is known."""

    request_id: str
    trace_id: str = ""
    """32 hexadecimal digits, of the caller's trace; empty where it has none."""
    flags: str = "00"
    """Of that trace: whether it is sampled."""

    @property
    def traceparent(self) -> str:
        """For a request made on behalf of this one: the same trace, a span of its own; empty without a trace."""
        return f"00-{self.trace_id}-{secrets.token_hex(8)}-{self.flags}" if self.trace_id else ""


current: ContextVar[RequestContext | None] = ContextVar("current", default=None)


def request_id() -> str:
    """Of the request under way, empty outside of any."""
    context = current.get()
    return context.request_id if context else ""


def traceparent() -> str:
    """For a request made on behalf of the one under way; empty where that belongs to no trace."""
    context = current.get()
    return context.traceparent if context else ""


def make_context(given_id: str, traceparent: str) -> RequestContext:
    """The caller's own id where it is a plain one, and its trace where it is a valid one."""
    own_id = given_id if PLAIN_ID.fullmatch(given_id) else secrets.token_hex(8)
    match = TRACEPARENT.fullmatch(traceparent)
    is_valid = match is not None and not traceparent.startswith("ff") and (match[4] is None or traceparent[:2] != "00")
    if match is None or not is_valid or not int(match[1], 16) or not int(match[2], 16):
        return RequestContext(own_id)
    return RequestContext(own_id, match[1], match[3])


class TextFormatter(logging.Formatter):
    """One line for a person; what a caller sent cannot begin another or move the cursor of a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line, to which a traceback may be added."""
        record.message = "".join(character if character.isprintable() else " " for character in record.message)
        own_id = request_id()
        if own_id and f"request {own_id}" not in record.message:
            record.message += f" [request {own_id}]"
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what a record carries in `fields` stands in it too."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = current.get()
        if context:
            line["request_id"] = context.request_id
            if context.trace_id:
                line["trace_id"] = context.trace_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(log_format: LogFormat) -> None:
    """Send log lines of all modules to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
