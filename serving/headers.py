"""What a request's headers ask for: content types in, content types out, Kennel's own attributes.

Sources: RFC 9110, sections 8.3 (media types) and 12.5.1 (Accept); SageMaker's custom attributes are free text.
"""

from collections.abc import Iterable, Mapping, Sequence
from email.message import Message
from typing import Final, Literal, Protocol, TypeVar

from serving.errors import InvalidInput, NotAcceptable, UnsupportedContentType

CUSTOM_ATTRIBUTES: Final = "X-Amzn-SageMaker-Custom-Attributes"
PixelRange = Literal["unit", "normalized"]
"""What floats are: 0 to 1, or that with the bundle's mean subtracted and divided by its standard deviation."""
PIXEL_RANGES: Final[tuple[PixelRange, ...]] = ("unit", "normalized")
ATTRIBUTES: Final = {"topk": "top_k", "pixelrange": "pixel_range"}
"""Names of ours among the custom attributes, by their letters."""


class HasContentType(Protocol):
    """A row of a table of formats."""

    @property
    def content_type(self) -> str:
        """Such as `application/json`."""


Format = TypeVar("Format", bound=HasContentType)


def parse_content_type(value: str) -> tuple[str, dict[str, str]]:
    """`Multipart/Form-Data; boundary="a b"` -> (`multipart/form-data`, {`boundary`: `a b`})."""
    message = Message()
    message["Content-Type"] = value.replace("\n", " ").replace("\r", " ")
    parameters = message.get_params(failobj=[], header="Content-Type")
    return essence(value), {name.lower(): text for name, text in parameters[1:] if isinstance(text, str)}


def check_encoding(content_encoding: str | None) -> None:
    """Bodies are taken as they are.

    Raises:
        UnsupportedContentType: This one was compressed.
    """
    if content_encoding and essence(content_encoding) != "identity":
        raise UnsupportedContentType(
            f"Content-Encoding {shortened(content_encoding)} is not read here, send the body as it is"
        )


def preferred(formats: Sequence[Format], accept: str | None) -> Format:
    """The format a request likes best: highest q-value, then the more exact range, then the order of `formats`.

    Raises:
        NotAcceptable: It likes none.
    """
    if not accept or not accept.strip():
        return formats[0]
    ranges = dict(_media_range(part) for part in accept.split(","))
    best: tuple[float, int] = (0.0, 0)
    chosen: Format | None = None
    for candidate in formats:
        kind = candidate.content_type.split("/")[0]
        # the most exact range that covers a type decides on it, also when it says q=0
        for exactness, name in ((3, candidate.content_type), (2, f"{kind}/*"), (1, "*/*")):
            if name in ranges:
                if ranges[name] > 0 and (ranges[name], exactness) > best:
                    best, chosen = (ranges[name], exactness), candidate
                break
    if chosen is None:
        offered = " or ".join(candidate.content_type for candidate in formats)
        raise NotAcceptable(f"Accept {shortened(accept)} asks for what is not written here, expected {offered}")
    return chosen


def parse_attributes(value: str | None) -> Mapping[str, str]:
    """`top_k=3, trace=abc` -> {`top_k`: `3`, `trace`: `abc`}; what is no pair is the caller's own and of no matter.

    Other names are the caller's own too, since the platform hands on whatever it is given; but not those that differ
    from one of ours in nothing but case and punctuation, which would be ignored without a word.

    Raises:
        InvalidInput: There is such a name.
    """
    attributes = {}
    for part in (value or "").split(","):
        name, is_pair, text = part.partition("=")
        name = name.strip()
        meant = ATTRIBUTES.get(_bare(name), name)
        if is_pair and meant != name:
            raise InvalidInput(f"{CUSTOM_ATTRIBUTES} has {shortened(name)}, did you mean {meant}?")
        attributes[name] = text.strip()
    return attributes


def check_query(names: Iterable[str]) -> None:
    """Attributes stand in a header; in the query of a path they would be ignored without a word.

    Raises:
        InvalidInput: One is among `names`.
    """
    for name in names:
        if meant := ATTRIBUTES.get(_bare(name)):
            raise InvalidInput(
                f"{shortened(name)} is not read in a query, expected {meant} in the header {CUSTOM_ATTRIBUTES}"
            )


def parse_top_k(attributes: Mapping[str, str], default: int) -> int:
    """How many labels are asked for.

    Raises:
        InvalidInput: It is not a whole number from 1.
    """
    value = attributes.get("top_k")
    if value is None:
        return default
    digits = value.lstrip("0")
    if not (digits.isascii() and digits.isdecimal()):
        raise InvalidInput(f"top_k in {CUSTOM_ATTRIBUTES} is {shortened(value)}, expected a whole number from 1")
    return int(digits[:9])  # more than there are labels means all of them


def essence(value: str) -> str:
    """A media type without its parameters, in lower case."""
    return value.partition(";")[0].strip().lower()


def shortened(text: str) -> str:
    """A header as it may stand in a message."""
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _bare(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


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
    return essence(part), quality
