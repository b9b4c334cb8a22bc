"""HTML and SVG as text that cannot be confused with text that came from outside."""

import html
from typing import Final

_VOID: Final = frozenset({"br", "hr", "img", "link", "meta", "wbr"})
_INVISIBLE: Final = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127), 0xFFFD)
"""Control characters, which HTML does not allow: shown as the replacement character."""
_DIRECTIONS: Final = dict.fromkeys((*range(8234, 8239), *range(8294, 8298)))
"""Characters that turn the direction of all text after them."""


class Markup(str):
    """Text that is HTML already. Everything else is escaped when it becomes part of an element."""

    __slots__ = ()


Child = Markup | str | None
Attribute = str | float | bool | None


def element(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """An element: `element("td", label, class_="name")`.

    Args:
        name: Of the element, written in the code; never from outside.
        children: Text is escaped, `Markup` is not, None is left out.
        attributes: `class_` is class and `data_x` data-x; True stands alone, False and None are left out.
    """
    inside = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{inside}>")
    return Markup(f"<{name}{inside}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children one after the other, escaped as in `element`."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children if child))


def escape(text: str) -> Markup:
    """Text from outside as HTML text or as the value of an attribute; what UTF-8 cannot say becomes a question mark."""
    speakable = text.encode("utf-8", "replace").decode()  # a file name that is not UTF-8 holds lone surrogates
    return Markup(html.escape(speakable.translate(_INVISIBLE)))


def isolated(text: str) -> str:
    """Text from outside for a place where no `bdi` can stand, such as a tooltip: what is around it keeps its order."""
    return f"\u2068{text.translate(_DIRECTIONS)}\u2069"


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = value if isinstance(value, str) else f"{value:.6g}"
    return f' {name}="{escape(text)}"'
