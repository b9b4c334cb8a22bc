"""Small pictures inside a page."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from serving.errors import InvalidInput
from serving.preprocess import decode

SIDE_PX: Final = 160
QUALITY: Final = 75
MAX_TOTAL_BYTES: Final = 2_000_000
"""Of all thumbnails of a page together, before base64: a page that cannot be mailed is not read."""


def thumbnails(paths: Iterable[Path]) -> dict[Path, str]:
    """Data addresses of small JPEGs; what cannot be read, or has no room any more, is left out.

    They are made anew from pixels, so that nothing of a file (where a camera was, a script) gets into the page.
    """
    made: dict[Path, str] = {}
    room = MAX_TOTAL_BYTES
    for path in paths:
        content = _thumbnail(path)
        if content is None or len(content) > room:
            continue
        room -= len(content)
        made[path] = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
    return made


def _thumbnail(path: Path) -> bytes | None:
    try:
        image = decode(path.read_bytes())
    except (InvalidInput, OSError, ValueError):  # ValueError: a path with a NUL in it
        return None
    image.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
