import html.parser

import pytest

from components.report.markup import Markup, element, escape, isolated, join
from tests.components.report.made import HOSTILE


class Reader(html.parser.HTMLParser):
    """What a browser would make of it: names of elements, and all text and attributes."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.texts: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.texts += [value for _, value in attrs if value]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("text", [label for label in HOSTILE if label.isprintable()])
def test_text_stays_text_in_an_element_and_in_an_attribute(text: str) -> None:
    read = Reader(element("td", text, title=text))
    assert read.names == ["td"]
    assert read.texts == [text, text]


def test_markup_is_nested_and_text_beside_it_is_escaped() -> None:
    assert element("p", element("b", "1 < 2"), " & ", None) == "<p><b>1 &lt; 2</b> &amp; </p>"
    assert isinstance(join("a", Markup("<br>")), Markup)


def test_attributes_are_written_as_html_has_them() -> None:
    assert element("td", class_="number", data_value=1 / 3, hidden=True, title=None, colspan=False) == (
        '<td class="number" data-value="0.333333" hidden></td>'
    )


def test_characters_that_html_does_not_allow_are_replaced() -> None:
    assert escape("a\x00b\x1b\udcff\n") == "a\ufffdb\ufffd?\n"
    escape("\udcff").encode()


def test_text_cannot_leave_the_isolation_that_it_is_put_in() -> None:
    assert isolated("a\u2069\u202eb") == "\u2068ab\u2069"
