"""What holds for every page in a browser."""

from pathlib import Path
from typing import Final

from tests.support.chromium import Tab

CONTRAST: Final = """
(() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    const color = getComputedStyle(node).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" && node.parentElement ? ground(node.parentElement) : color;
  };
  const wanted = "h1, h2, p, dt, dd, td, caption, text.tick, text.title, text.name, text.row, text.column, li";
  return Math.min(...[...document.querySelectorAll(wanted)].map((node) => {
    const style = getComputedStyle(node);
    const [a, b] = [light(node instanceof SVGElement ? style.fill : style.color), light(ground(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
})()
"""
"""The least contrast of any text with what is behind it."""


def assert_quiet(tab: Tab, page: Path) -> None:
    """The browser had nothing to complain of and fetched nothing but the page."""
    assert tab.complaints == []
    assert tab.requests == [page.as_uri()]


def assert_fits(tab: Tab) -> None:
    """Nobody has to scroll sideways but inside a box made for it."""
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
