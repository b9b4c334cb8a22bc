"""The page of a search in a real browser."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.report.tuning import tuning_page
from components.tune.space import Categorical, Space
from components.tune.trials import best, front
from tests.components.report.made import ACCURACY, HOSTILE, LATENCY, LOSS, SPACE, search, write
from tests.support.chromium import Tab
from tests.support.pages import CONTRAST, assert_fits, assert_quiet

IMPORTANCES = {"lr": 0.6, "arch": 0.25, "epochs": 0.1, "batch_size": 0.05}
OBJECTIVE = "svg.dots"
PARALLEL = "svg.parallel"


def page_of(num_trials: int) -> str:
    return tuning_page(search(num_trials), SPACE, [LOSS], IMPORTANCES, title=f"{num_trials} trials")


@pytest.mark.parametrize("num_trials", [1, 40, 1000])
@pytest.mark.parametrize("width", [1280, 390])
def test_as_many_marks_as_trials_and_nothing_beyond_the_screen(
    num_trials: int, width: int, tab: Tab, tmp_path: Path
) -> None:
    page = write(tmp_path, page_of(num_trials))
    tab.open(page, width=width)
    counts = tab.evaluate(
        "[...document.querySelectorAll('svg.trials')].map((svg) => svg.querySelectorAll('.mark').length)"
    )
    assert counts == [num_trials] * (3 + len(SPACE))
    assert tab.count("tbody tr") == num_trials
    assert tab.count(".mark.bar") == len(IMPORTANCES)
    assert_quiet(tab, page)
    assert_fits(tab)


def test_pointing_at_a_trial_shows_it_in_every_chart_and_in_the_table(tab: Tab, tmp_path: Path) -> None:
    tab.open(write(tmp_path, page_of(40)))
    tab.point(f"{OBJECTIVE} .mark[data-trial='12']")
    assert tab.text(".readout").startswith("trial 12: valid loss ")
    assert tab.count("svg.trials.pointing") == tab.count("svg.trials")
    assert tab.evaluate("document.querySelector('tr.near').dataset.trial") == "12"
    drawn = tab.evaluate(f"document.querySelector('{PARALLEL} .trace').getAttribute('d')")
    assert drawn == tab.evaluate(f"document.querySelector('{PARALLEL} [data-trial=\"12\"]').getAttribute('d')")
    told = tab.evaluate("[...document.querySelectorAll('.readout')].map((line) => line.textContent)")
    assert sum(line.startswith("trial ") for line in told) == 1
    tab.point("tr[data-trial='39']")
    assert tab.evaluate(f"document.querySelector('{OBJECTIVE} .ring').getAttribute('cx')") == tab.evaluate(
        f"document.querySelector('{OBJECTIVE} [data-trial=\"39\"]').getAttribute('cx')"
    )
    tab.point("h1")
    assert tab.count("tr.near, .pointing") == 0


def test_arrow_keys_go_through_trials_by_number_and_lines_from_the_best(tab: Tab, tmp_path: Path) -> None:
    trials = search(40)
    winner = best(trials, LOSS)
    assert winner is not None
    tab.open(write(tmp_path, page_of(40)))
    tab.evaluate(f"document.querySelector('{OBJECTIVE}').focus()")
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    assert tab.text(".readout").startswith("trial 1: ")
    tab.evaluate(f"document.querySelector('{PARALLEL}').focus()")
    assert tab.text(".readout") == ""
    tab.press("ArrowDown")
    readout = ".grid.whole .readout"
    assert tab.text(readout).startswith(f"trial {winner.number}: ")
    assert "batch size" in tab.text(readout)
    tab.press("ArrowUp")
    assert tab.text(readout).startswith(f"trial {winner.number}: ")


def test_pointing_between_lines_finds_the_nearest(tab: Tab, tmp_path: Path) -> None:
    trials = [
        replace(trial, state="complete", values=(value,)) for trial, value in zip(search(2), (1.0, 2.0), strict=True)
    ]
    first, second = (replace(trial, parameters={"lr": rate}) for trial, rate in zip(trials, (0.001, 0.1), strict=True))
    tab.open(write(tmp_path, tuning_page([first, second], {"lr": SPACE["lr"]}, [LOSS], {}, title="two")))
    box = tab.evaluate(
        f"(() => {{ const svg = document.querySelector('{PARALLEL}'); svg.scrollIntoView();"
        " const {x, y, width, height} = svg.getBoundingClientRect(); return [x, y, width, height] })()"
    )
    for share, number in ((0.25, 1), (0.75, 0)):
        x, y = box[0] + box[2] / 2, box[1] + box[3] * share
        tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert tab.text(".grid.whole .readout").startswith(f"trial {number}: ")


def test_the_table_sorts_and_trials_without_a_value_stay_last(tab: Tab, tmp_path: Path) -> None:
    stopped = [replace(trial, state="pruned", values=()) for trial in search(40)[:24]]
    trials = [*stopped, *search(40)[24:]]
    values = sorted(trial.values[0] for trial in trials if trial.values)
    tab.open(write(tmp_path, tuning_page(trials, SPACE, [LOSS], IMPORTANCES, title="mostly pruned")))
    heading = "[...document.querySelectorAll('th')].find((head) => head.textContent === 'valid loss')"
    column = f"[...document.querySelectorAll('tbody tr')].map((row) => row.cells[{heading}.cellIndex].dataset.value)"
    click = f"{heading}.querySelector('button').click()"
    for order in (values, values[::-1]):
        tab.evaluate(click)
        sorted_by = tab.evaluate(column)
        assert [float(value) for value in sorted_by[: len(values)]] == pytest.approx(order)
        assert sorted_by[len(values) :] == ["nan"] * (40 - len(values)) != []
    assert tab.text("tbody tr.best .badge") == "best"


def test_the_front_is_marked_in_the_chart_and_in_the_table(tab: Tab, tmp_path: Path) -> None:
    objectives = [ACCURACY, LATENCY]
    trials = search(60, objectives, seed=3)
    ahead = {str(trial.number) for trial in front(trials, objectives)}
    page = write(tmp_path, tuning_page(trials, SPACE, objectives, IMPORTANCES, title="two objectives"))
    tab.open(page)
    rows = tab.evaluate("[...document.querySelectorAll('tr.best')].map((row) => row.dataset.trial)")
    assert set(rows) == ahead
    assert_quiet(tab, page)


@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_values_and_reasons_are_text_and_nothing_else(width: int, tab: Tab, tmp_path: Path) -> None:
    space: Space = {"arch": Categorical(HOSTILE)}
    trials = [
        replace(
            trial,
            state="failed" if place == 0 else "complete",
            parameters={"arch": text},
            values=(0.1 * place,) if place else (),
            reason=text,
        )
        for place, (trial, text) in enumerate(zip(search(len(HOSTILE)), HOSTILE, strict=True))
    ]
    page = write(tmp_path, tuning_page(trials, space, [LOSS], {HOSTILE[0]: 1.0}, title=HOSTILE[0]))
    tab.open(page, width=width)
    assert tab.evaluate("document.title") == "Tuning"
    assert tab.count("script, img, [onload], [onerror]") == 1  # our own script
    reasons = tab.evaluate(
        "[...document.querySelectorAll('tbody tr')].map((row) => row.cells[row.cells.length - 1].textContent)"
    )
    assert reasons == [text.replace("\0", "\ufffd").replace("\x1b", "\ufffd") for text in HOSTILE]
    tab.evaluate(f"document.querySelector('{PARALLEL}').focus()")
    for _ in HOSTILE:
        tab.press("ArrowRight")
        assert "\u202e" not in tab.text(".grid.whole .readout")
    assert_quiet(tab, page)
    assert_fits(tab)


@pytest.mark.parametrize("is_dark", [False, True])
def test_text_can_be_read_in_the_light_and_in_the_dark(is_dark: bool, tab: Tab, tmp_path: Path) -> None:
    page = write(tmp_path, page_of(40))
    tab.open(page, is_dark=is_dark)
    ground = json.loads(f"[{tab.evaluate('getComputedStyle(document.body).backgroundColor')[4:-1]}]")
    assert (max(ground) < 64) == is_dark
    assert tab.evaluate(CONTRAST) >= 4.5  # WCAG 2.2, 1.4.3
    assert tab.count("svg:not([aria-label]):not([aria-hidden])") == 0
    assert tab.count("svg.trials:not([tabindex])") == 0
