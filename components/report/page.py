"""One self-contained HTML page: style and script inside, no request to anywhere, nothing from outside executed.

The content security policy names the hashes of the one style and the one script that are here: whatever else somebody
got into a page would not run, nor load.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from components.report.charts import swatch
from components.report.markup import Attribute, Child, Markup, element, join

DOCTYPE: Final = Markup("<!doctype html>\n")


@dataclass(frozen=True)
class Card:
    """A number that the reader came for."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    is_number: bool = False


@dataclass(frozen=True)
class Value:
    """A cell of a table that sorts by another value than it shows."""

    shown: Child
    sorted_by: float


def page(title: str, subtitle: str, *content: Markup | None) -> str:
    """The whole page, from its title to its script."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("link", rel="icon", href="data:,"),  # or the browser asks the server for one
        element("title", title),
        element("style", style),
    )
    main = element("main", element("h1", title), element("p", element("bdi", subtitle)), *content)
    return join(DOCTYPE, element("html", head, element("body", main, element("script", script)), lang="en")) + "\n"


def section(title: str, text: str, *content: Markup | None) -> Markup:
    """A heading, a sentence that says how to read what follows, and that."""
    return element("section", element("h2", title), element("p", text) if text else None, *content)


def cards(entries: Sequence[Card]) -> Markup:
    """Numbers in a row."""
    made = [
        element(
            "div",
            element("dt", card.name),
            element("dd", card.value),
            element("dd", card.note, class_="note") if card.note else None,
        )
        for card in entries
    ]
    return element("dl", *made, class_="cards")


def figure(
    title: str, text: str, chart: Markup, *, legend: Sequence[tuple[int | Markup, str]] = (), hint: str | None = ""
) -> Markup:
    """A chart with its title, its legend (color or drawing, and name) and a line that tells of the mark pointed at.

    Args:
        title: What is shown.
        text: How to read it; may be empty.
        chart: Made by `components.report.charts`.
        legend: Left out for a single series.
        hint: What the line says while nothing is pointed at; None for a chart whose marks say it all.
    """
    keys = [element("li", key if isinstance(key, Markup) else swatch(key), name) for key, name in legend]
    return element(
        "figure",
        element("figcaption", element("h3", title), element("p", text) if text else None),
        element("ul", *keys, class_="legend") if len(keys) > 1 else None,
        element("div", chart, class_="scroll"),
        element("p", hint, class_="readout", data_hint=hint, aria_live="polite") if hint is not None else None,
    )


def grid(*figures: Markup | None) -> Markup:
    """Figures side by side where there is room."""
    return element("div", *figures, class_="grid")


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Child | Value]],
    facts: Sequence[Mapping[str, Attribute]] = (),
) -> Markup:
    """A table that sorts when a heading is clicked; in a box that scrolls.

    Args:
        caption: What it shows.
        columns: From the left.
        rows: As they stand at first; a number that is none comes last, however they are sorted.
        facts: Attributes of each row, for page.css and page.js; left out, there are none.
    """
    heads = [
        element("th", element("button", column.name, type="button"), scope="col", class_=_kind(column))
        for column in columns
    ]
    body = [
        element("tr", *(_cell(column, value) for column, value in zip(columns, row, strict=True)), **fact)
        for row, fact in zip(rows, facts or [{}] * len(rows), strict=True)
    ]
    made = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
        class_="sortable",
    )
    return element("div", made, class_="scroll tall", tabindex="0", role="region", aria_label=caption)


def details(summary: str, content: Markup) -> Markup:
    """Content that is there for who opens it."""
    return element("details", element("summary", summary), content)


def _cell(column: Column, value: Child | Value) -> Markup:
    if isinstance(value, Value):
        return element("td", value.shown, class_=_kind(column), data_value=f"{value.sorted_by:.9g}")
    return element("td", value if isinstance(value, Markup) else element("bdi", value), class_=_kind(column))


def _kind(column: Column) -> str | None:
    return "number" if column.is_number else None


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _asset(name: str) -> Markup:
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))
