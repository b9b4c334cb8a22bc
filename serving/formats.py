"""Names what bytes are, for messages about those that are no picture anybody here reads."""

import re
from typing import Final

# ISO media files say their brand after "ftyp" (ISO/IEC 14496-12); HEIF's and AVIF's brands: ISO/IEC 23008-12, av1-avif.
BRANDS: Final = {
    b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"mif1": "HEIF",
    b"msf1": "HEIF", b"avif": "AVIF", b"avis": "AVIF", b"crx ": "a raw photograph (CR3)", b"qt  ": "a QuickTime video",
}  # fmt: skip
MAGIC: Final = {
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"8BPS": "a Photoshop file",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x00\x00\x01\x00": "an icon (ICO)",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"\x93NUMPY": "a numpy array",
    b"version https://git-lfs": "a Git LFS pointer in place of the file (run git lfs pull)",
}
READ: Final = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
"""Content types of pictures that are read here, by how they begin; BM alone could be a text, and WebP's is apart."""
MARKUP: Final = (
    (re.compile(rb"<!doctype html|<html|<head|<body", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"<svg[\s>]", re.IGNORECASE), "SVG"),
    (re.compile(rb"^<\?xml|^<[a-z]+[\s>]", re.IGNORECASE), "XML"),
    (re.compile(rb'^[{\[]\s*["{\[\]}0-9]'), "JSON"),
)
PICTURES: Final = (
    "HEIC", "HEIF", "AVIF", "JPEG XL", "JPEG 2000", "SVG", "an icon (ICO)", "a Photoshop file",
    "a raw photograph (CR3)",
)  # fmt: skip
LOOKED_AT_BYTES: Final = 1024


def refusal(data: bytes) -> str:
    """`HEIC is not read here` or `an HTML page is not a picture`, whichever the bytes are."""
    name = name_of(data)
    return f"{name} is not read here" if name in PICTURES else f"{name} is not a picture"


def picture_of(data: bytes) -> str:
    """Content type of a picture that is read here, by how its bytes begin; empty: it seems to be none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((content_type for magic, content_type in READ.items() if data.startswith(magic)), "")


def name_of(data: bytes) -> str:
    """What bytes are, by how they begin: `HEIC`, `an HTML page`; failing that, the bytes themselves."""
    head = data[:LOOKED_AT_BYTES]
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "a video (MP4) or another ISO media file")
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            return name
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, name in MARKUP:
        if pattern.search(text):
            return name
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    if text and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return f"a text that starts with {data[:8]!r}"
    return f"what starts with {data[:8]!r}"
