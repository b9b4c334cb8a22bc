"""The pages in a real browser."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.report.confusion import NUM_PAIRS, confusion_page
from components.report.curves import curves_page
from components.report.mistakes import confusion_counts
from tests.components.report.made import HOSTILE, history, split, write
from tests.support.chromium import Tab
from tests.support.folders import write_images
from tests.support.pages import CONTRAST, assert_fits, assert_quiet

PHASES = {"decode": 10.0, "train": 30.0, "export": 5.0}


def small_page(temperature: float | None = None) -> str:
    targets, probabilities = split(10, 200)
    names = [f"test/{place}.jpg" for place in range(200)]
    return confusion_page(
        [f"class {place}" for place in range(10)], targets, probabilities, names, temperature=temperature
    )


@pytest.mark.parametrize("num_epochs", [1, 8, 1000])
def test_curves_have_a_mark_for_every_number_of_every_epoch(num_epochs: int, tab: Tab, tmp_path: Path) -> None:
    page = write(tmp_path, curves_page(history(num_epochs), phases=PHASES))
    tab.open(page)
    assert tab.count(".point") == 6 * num_epochs  # two losses, accuracy, rate, time, waiting
    assert tab.count(".bar") == len(PHASES)
    assert tab.count("tbody tr") == num_epochs
    assert tab.count(".mark title") == tab.count(".mark")
    assert_quiet(tab, page)
    assert_fits(tab)


def test_curves_mark_the_best_epoch_and_say_what_matters(tab: Tab, tmp_path: Path) -> None:
    tab.open(write(tmp_path, curves_page(history(9), title="resnet18 on digits")))
    assert tab.text("text.rule") == "best: epoch 5"
    cards = tab.evaluate("[...document.querySelectorAll('dd:not(.note)')].map((node) => node.textContent)")
    assert cards == ["5", "0.3", "85.0%", "18.0 s", "500"]
    at = "(selector) => document.querySelector(selector).getBoundingClientRect().x"
    assert abs(tab.evaluate(f"({at})('line.rule') - ({at})('.s1.point:nth-of-type(5)')")) < 8
    assert "resnet18 on digits" in tab.text("main > p")


def test_curves_of_a_diverged_training_are_drawn_as_far_as_they_go(tab: Tab, tmp_path: Path) -> None:
    results = history(5)
    results[0] = replace(results[0], valid_loss=math.nan)
    results[4] = replace(results[4], train_loss=math.inf)
    page = write(tmp_path, curves_page(results))
    tab.open(page)
    assert tab.count(".point") == 6 * 5 - 2
    assert tab.text("text.rule") == "best: epoch 3"
    assert_quiet(tab, page)


def test_arrow_keys_read_a_chart_epoch_by_epoch(tab: Tab, tmp_path: Path) -> None:
    tab.open(write(tmp_path, curves_page(history(5))))
    tab.evaluate("document.querySelector('svg.lines').focus()")
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    assert tab.text(".readout") == "epoch 2 · valid loss: 0.5 · train loss: 0.5"
    tab.press("ArrowLeft")
    assert tab.text(".readout").startswith("epoch 1 · ")
    tab.evaluate("document.activeElement.blur()")
    assert tab.text(".readout") == ""


@pytest.mark.parametrize("num_labels", [2, 10, 133])
def test_a_matrix_has_a_mark_for_every_confusion_that_happened(num_labels: int, tab: Tab, tmp_path: Path) -> None:
    targets, probabilities = split(num_labels, 6 * num_labels)
    names = [f"test/{place}.jpg" for place in range(len(targets))]
    labels = [f"{place:03d}.breed" for place in range(num_labels)]
    page = write(tmp_path, confusion_page(labels, targets, probabilities, names))
    tab.open(page)
    counts = confusion_counts(num_labels, targets, probabilities.argmax(axis=1))
    wrong = np.count_nonzero(counts) - np.count_nonzero(counts.diagonal())
    assert tab.count(".cell") == np.count_nonzero(counts)
    assert tab.count(".cell.bad") == wrong
    assert tab.count("tbody tr") == num_labels
    assert tab.count("text.row") == num_labels
    assert tab.count(".pair") == min(NUM_PAIRS, wrong)
    assert tab.evaluate("parseFloat(getComputedStyle(document.querySelector('text.row')).fontSize)") >= 8
    assert_quiet(tab, page)
    assert_fits(tab)


def test_pointing_at_a_square_names_it_and_lights_its_row_and_column(tab: Tab, tmp_path: Path) -> None:
    tab.open(write(tmp_path, small_page()))
    tab.point('.cell[data-row="3"][data-column="3"]')
    assert "class 3" in tab.text("figure .readout")
    assert "recognised" in tab.text("figure .readout")
    assert tab.count(".heat text.near") == 2
    assert tab.evaluate("document.querySelector('.band').getAttribute('visibility')") == "visible"


def test_arrow_keys_walk_through_the_matrix_empty_squares_too(tab: Tab, tmp_path: Path) -> None:
    labels = ["ant", "bee"]
    targets = np.array([0, 1], dtype=np.int64)
    tab.open(write(tmp_path, confusion_page(labels, targets, np.eye(2), ["a", "b"])))
    tab.evaluate("document.querySelector('.heat').focus()")
    tab.press("ArrowDown")
    assert tab.text(".readout") == "\u2068ant\u2069 recognised: 1 of 1 (100.0%)"
    tab.press("ArrowRight")
    assert tab.text(".readout") == "\u2068ant\u2069 taken for \u2068bee\u2069: never"


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(tab: Tab, tmp_path: Path) -> None:
    tab.open(write(tmp_path, small_page()))
    column = "[...document.querySelectorAll('tbody tr')].map((row) => Number(row.cells[3].dataset.value))"
    click = "document.querySelectorAll('th button')[3].click()"
    before = tab.evaluate(column)
    assert before != sorted(before)
    tab.evaluate(click)
    assert tab.evaluate(column) == sorted(before)
    assert tab.evaluate("document.querySelectorAll('th')[3].getAttribute('aria-sort')") == "ascending"
    tab.evaluate(click)
    assert tab.evaluate(column) == sorted(before, reverse=True)


def test_calibration_is_shown_before_and_after(tab: Tab, tmp_path: Path) -> None:
    tab.open(write(tmp_path, small_page(temperature=2.0)))
    legend = tab.evaluate("[...document.querySelectorAll('.legend li')].map((node) => node.textContent)")
    assert legend == ["as trained", "with temperature 2"]
    assert tab.count(".point.s1") > 1
    assert tab.count(".point.s2") > 1
    tab.open(write(tmp_path, small_page()))
    assert tab.count(".legend") == 0
    assert tab.count(".point.s2") == 0


def test_mistaken_images_are_shown_where_their_files_are_at_hand(tab: Tab, tmp_path: Path) -> None:
    files = sorted((write_images(tmp_path / "images", splits=["test"], per_class=4) / "test").rglob("*.jpg"))
    targets = np.arange(len(files), dtype=np.int64) // 4
    probabilities = np.eye(3)[(targets + 1) % 3] * 0.7 + 0.1
    files[0].write_bytes(b"no picture any more")
    page = write(
        tmp_path, confusion_page(["apple", "lemon", "plum"], targets, probabilities, list(map(str, files)), paths=files)
    )
    tab.open(page)
    assert tab.count(".pair") == 3
    assert tab.count(".examples li") == 9
    sizes = tab.evaluate(
        "Promise.all([...document.images].map((image) => image.decode().then(() => image.naturalWidth)))"
    )
    assert sizes == [40] * 8
    assert_quiet(tab, page)


@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_labels_are_text_and_nothing_else(width: int, tab: Tab, tmp_path: Path) -> None:
    targets, probabilities = split(len(HOSTILE), 80)
    names = [f"{label}/{place}\udcff.jpg" for place, label in enumerate(HOSTILE * 10)]
    page = write(tmp_path, confusion_page(HOSTILE, targets, probabilities, names, title=HOSTILE[0]))
    tab.open(page, width=width)
    assert tab.evaluate("document.title") == "Confusion matrix"
    assert tab.count("script, img, [onload], [onerror]") == 1  # our own script
    cells = tab.evaluate("[...document.querySelectorAll('tbody tr')].map((row) => row.cells[0].textContent)")
    assert cells == [label.replace("\0", "\ufffd").replace("\x1b", "\ufffd") for label in HOSTILE]
    tab.evaluate("document.querySelector('th button').click(); document.querySelector('.heat').focus()")
    tab.press("ArrowDown")
    assert HOSTILE[0] in tab.text("figure .readout")
    assert_quiet(tab, page)
    assert_fits(tab)


def test_what_somebody_got_into_a_page_all_the_same_would_not_run(tab: Tab, tmp_path: Path) -> None:
    injected = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
    page = write(tmp_path, curves_page(history(2)).replace("</main>", f"{injected}</main>"))
    tab.open(page)
    assert tab.evaluate("document.title") == "Training curves"
    assert len([complaint for complaint in tab.complaints if "Content Security Policy" in complaint]) >= 2


@pytest.mark.parametrize("kind", ["curves", "confusion"])
@pytest.mark.parametrize("is_dark", [False, True])
def test_text_can_be_read_in_the_light_and_in_the_dark(kind: str, is_dark: bool, tab: Tab, tmp_path: Path) -> None:
    page = write(tmp_path, curves_page(history(3), phases=PHASES) if kind == "curves" else small_page(temperature=2.0))
    tab.open(page, is_dark=is_dark)
    ground = json.loads(f"[{tab.evaluate('getComputedStyle(document.body).backgroundColor')[4:-1]}]")
    assert (max(ground) < 64) == is_dark
    assert tab.evaluate(CONTRAST) >= 4.5  # WCAG 2.2, 1.4.3
    assert_quiet(tab, page)


def test_everything_to_see_has_a_name_to_hear(tab: Tab, tmp_path: Path) -> None:
    tab.open(write(tmp_path, small_page()))
    assert tab.count("svg:not([aria-label]):not([aria-hidden])") == 0
    assert tab.count("table") == tab.count("table > caption")
    assert tab.count("th") == tab.count("th[scope]")
    assert tab.count("img:not([alt])") == 0
    headings = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((node) => Number(node.tagName[1]))")
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
