"""The page at `/`: choose a picture, see its labels. One answer, which asks nothing of any other host."""

import base64
import hashlib
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent


def read_page() -> tuple[bytes, dict[str, str]]:
    """The page with its style and script inside, and the headers that allow these and nothing else.

    Source of the headers: W3C, Content Security Policy Level 3; a hash stands for each of the two.
    """
    page = (FOLDER / "index.html").read_text()
    hashes = {}
    for kind, name in (("style", "style.css"), ("script", "script.js")):
        content = (FOLDER / name).read_text()
        hashes[kind] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        page = page.replace(f"/*{kind}*/", content)
    policy = (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    return page.encode(), {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
