import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from components.report.page import Card
from components.report.search import Search
from components.report.trial_charts import best_so_far
from components.report.tuning import tuning_page
from components.tune.objective import Objective
from components.tune.space import Categorical, Continuous, Integer, Space
from components.tune.trials import State, Trial, best, front
from tests.components.report.made import ACCURACY, HOSTILE, LATENCY, LOSS, SPACE, search

IMPORTANCES = {"lr": 0.6, "arch": 0.25, "epochs": 0.1, "batch_size": 0.05}


def made(trials: list[Trial], *objectives: Objective, space: Space = SPACE) -> str:
    return tuning_page(trials, space, objectives or (LOSS,), IMPORTANCES, title="a search")


def charts(page: str, kind: str = "trials") -> dict[str, ET.Element]:
    """Drawings by their name."""
    found = [ET.fromstring(svg) for svg in re.findall(r'<svg class="chart .*?</svg>', page, re.DOTALL)]
    return {svg.get("aria-label", ""): svg for svg in found if kind in svg.get("class", "").split()}


def marks(svg: ET.Element, kind: str = "mark") -> list[ET.Element]:
    return [node for node in svg.iter() if {"mark", kind} <= set(node.get("class", "").split())]


def with_values(values: list[float]) -> list[Trial]:
    """Complete trials that came to these."""
    trials = [replace(trial, state="complete") for trial in search(len(values))]
    return [replace(trial, values=(value,)) for trial, value in zip(trials, values, strict=True)]


@pytest.mark.parametrize("num_trials", [1, 2, 40, 1000])
def test_each_trial_is_a_mark_in_each_chart_and_a_row(num_trials: int) -> None:
    trials = search(num_trials)
    page = made(trials)
    drawn = charts(page)
    assert len(drawn) == 3 + len(SPACE)
    for svg in drawn.values():
        assert sorted(int(mark.get("data-trial", "-1")) for mark in marks(svg)) == list(range(num_trials))
        assert all(mark.findtext("title") for mark in marks(svg))
    assert page.count("<tr data-trial=") == num_trials
    assert len(page.encode()) < 3_000_000
    assert "nan" not in "".join(re.findall(r"<svg.*?</svg>", page))


def test_states_are_told_by_shape_and_the_best_is_larger() -> None:
    trials = search(60)
    svg = charts(made(trials))["valid loss of each trial and the best so far"]
    states = [trial.state for trial in trials]
    kinds: tuple[tuple[State, str], ...] = (("complete", "circle"), ("pruned", "path"), ("failed", "path"))
    for state, tag in kinds:
        found = marks(svg, state)
        assert len(found) == states.count(state) > 0
        assert {node.tag for node in found} == {tag}
    shapes = {state: re.sub(r"M[\d. ]+", "", marks(svg, state)[0].get("d", "")) for state in ("pruned", "failed")}
    assert shapes["pruned"] != shapes["failed"]
    winner = best(trials, LOSS)
    assert winner is not None
    emphasised = marks(svg, "best")
    assert [node.get("data-trial") for node in emphasised] == [str(winner.number)]
    assert float(emphasised[0].get("r", "0")) > max(
        float(node.get("r", "0")) for node in marks(svg, "complete") if node not in emphasised
    )


def test_a_failed_trial_lies_on_the_axis_and_a_pruned_one_at_the_lowest_loss_that_it_reached() -> None:
    done, stopped, lost = search(3)
    done = replace(done, state="complete", values=(0.5,))
    stopped = replace(stopped, state="pruned", values=(), losses=(0.9, 0.5, 0.7))
    lost = replace(lost, state="failed", values=(), losses=())
    svg = charts(made([done, stopped, lost]))["valid loss of each trial and the best so far"]
    axis = next(float(node.get("y1", "nan")) for node in svg.iter("line") if node.get("class") == "axis")
    heights = {}
    for node in marks(svg):
        middle = re.match(r"M[\d.]+ ([\d.]+)", node.get("d", ""))
        heights[node.get("data-trial")] = float(middle[1]) if middle else float(node.get("cy", "nan"))
    assert heights["0"] == heights["1"]
    assert heights["2"] == axis > heights["1"]


@pytest.mark.parametrize(
    ("objective", "steps"),
    [(LOSS, [(0, 5.0), (2, 3.0), (4, 1.0), (5, 1.0)]), (ACCURACY, [(0, 5.0), (1, 7.0), (5, 7.0)])],
)
def test_best_so_far_steps_where_a_trial_is_better_and_never_back(
    objective: Objective, steps: list[tuple[float, float]]
) -> None:
    trials = with_values([5.0, 7.0, 3.0, 3.0, 1.0, 2.0])
    assert best_so_far(Search(trials[::-1], SPACE, [objective]), 0) == steps


def test_best_so_far_is_drawn_across_first_then_up_or_down() -> None:
    svg = charts(made(with_values([4.0, 2.0, 3.0, 1.0])))["valid loss of each trial and the best so far"]
    path = next(node.get("d", "") for node in svg.iter("path") if node.get("class") == "line steps")
    places = {int(node.get("data-trial", "")): (node.get("cx"), node.get("cy")) for node in marks(svg)}
    corners = [(x, y) for x, y in re.findall(r"(?:M|H)([\d.]+)[V ]([\d.]+)", path)]
    wanted = [places[0], places[1], places[3], places[3]]
    assert [tuple(map(float, corner)) for corner in corners] == [
        pytest.approx((float(x or "nan"), float(y or "nan"))) for x, y in wanted
    ]


def test_the_front_is_emphasised_joined_and_named() -> None:
    trials = search(60, [ACCURACY, LATENCY], seed=3)
    ahead = [trial.number for trial in front(trials, [ACCURACY, LATENCY])]
    page = made(trials, ACCURACY, LATENCY)
    svg = charts(page)["Valid accuracy against latency, ms"]
    assert {int(node.get("data-trial", "")) for node in marks(svg, "best")} == set(ahead)
    assert len(marks(svg)) == sum(trial.state == "complete" for trial in trials)
    labels = {int(node.text or "") for node in svg.iter("text") if node.get("class") == "name"}
    assert labels <= set(ahead)
    assert len(labels) > 1
    path = next(node.get("d", "") for node in svg.iter("path") if node.get("class") == "line steps")
    assert path.count("H") == len(ahead) - 1
    assert page.count('class="badge">front') == len(ahead)


def test_parallel_coordinates_have_an_axis_for_each_setting_and_objective() -> None:
    svg = charts(made(search(20, [LOSS, LATENCY]), LOSS, LATENCY), "parallel").popitem()[1]
    names = [(node.text or "").strip("\u2068\u2069") for node in svg.iter("text") if node.get("class") == "name"]
    assert names == ["lr", "batch size", "epochs", "arch", "latency, ms", "valid loss"]
    ticks = ["".join(node.itertext()) for node in svg.iter("text") if node.get("class") == "tick"]
    assert {"0.001", "0.01", "0.1"} <= set(ticks)  # a logarithmic axis
    assert "\u2068densenet161\u2069" in ticks


def test_better_trials_have_deeper_colors_whichever_way_is_better() -> None:
    for objective, deepest in ((LOSS, 0), (ACCURACY, 2)):
        svg = charts(made(with_values([0.2, 0.4, 0.6]), objective), "parallel").popitem()[1]
        colors = {
            int(node.get("data-trial", "")): next(kind for kind in node.get("class", "").split() if kind[0] == "q")
            for node in marks(svg)
        }
        assert colors[deepest] == "q7"
        assert colors[2 - deepest] == "q0"


def test_losses_over_epochs_are_left_out_where_there_is_one_epoch_and_end_where_a_trial_was_pruned() -> None:
    name = "Valid loss of each trial in each epoch"
    trials = search(30)
    svg = charts(made(trials))[name]
    for trial in trials:
        path = next(node.get("d", "") for node in marks(svg) if node.get("data-trial") == str(trial.number))
        assert len(set(re.findall(r"[ML]([\d.]+)", path))) == len(trial.losses)
    assert name not in charts(made([replace(trial, losses=trial.losses[:1]) for trial in trials]))


def test_bars_of_importance_are_sorted_and_slices_follow_their_order() -> None:
    page = made(search(20))
    titles = [node.findtext("title") for node in marks(charts(page, "bars").popitem()[1])]
    assert titles == ["lr: 60.0%", "arch: 25.0%", "epochs: 10.0%", "batch size: 5.0%"]
    slices = [name for name in charts(page) if " by " in name]
    assert slices == [f"valid loss by {name}" for name in ("lr", "arch", "epochs", "batch size")]
    without = tuning_page(search(1), SPACE, [LOSS], {}, title="t")
    assert not charts(without, "bars")
    assert "it takes more trials" in without


def test_without_a_complete_trial_the_page_says_why() -> None:
    trials = [replace(trial, state="failed", values=(), reason=HOSTILE[0]) for trial in search(3)]
    page = made(trials)
    assert "No trial is complete" in page
    assert page.count("&lt;script&gt;document.title") == 1 + 3
    assert "0 complete, 0 pruned, 3 failed" in page
    assert made([]).count("<tr") == 1


@pytest.mark.parametrize("objective", [LOSS, ACCURACY, LATENCY])
@pytest.mark.parametrize(
    "values",
    [[0.5] * 4, [0.0] * 4, [1.0] * 2, [1e-300, 2e-300], [1e-300, 1.0], [1e-30, 1e30], [1e300, 2e300], [-3.0, 4.0]],
)
def test_any_values_can_be_drawn(objective: Objective, values: list[float]) -> None:
    page = made(with_values(values), objective if max(values) <= 1 else LOSS)  # no accuracy is above 1
    for svg in charts(page).values():
        assert len(marks(svg)) == len(values)
        for node in svg.iter():
            numbers = [node.get(name, "0") for name in ("cx", "cy", "x", "y", "x1", "y1")]
            assert all(-1 <= float(number) <= 1101 for number in numbers)
    assert "inf" not in "".join(node.get("d", "") for svg in charts(page).values() for node in svg.iter())


def test_losses_that_are_not_numbers_and_settings_beyond_the_space_do_no_harm() -> None:
    space: Space = {"lr": Continuous(0.1, 0.2, "log"), "momentum": Categorical((0.9,)), "depth": Integer(1, 1)}
    first, second, third = search(3)
    trials = [
        replace(first, parameters={"lr": 5.0, "momentum": 0.9, "depth": 1}, losses=(float("nan"), float("inf"), 1.0)),
        replace(second, parameters={"momentum": 0.5, "surprise": True}),
        replace(third, state="running", parameters={}, values=(), losses=()),
    ]
    page = made(trials, space=space)
    drawn = charts(page)
    assert len(marks(drawn["Settings and objective of each trial"])) == 3
    assert len(marks(drawn["valid loss by momentum"])) == 2
    assert "valid loss by surprise" in drawn
    assert "1 running" in page


def test_cards_say_what_came_of_it() -> None:
    trials = search(40)
    winner = best(trials, LOSS)
    assert winner is not None
    page = tuning_page(trials, SPACE, [LOSS], {}, title="t", facts=[Card("Cache", "saved 9 min")])
    cards = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>(?:<dd class=\"note\">(.*?)</dd>)?", page)[:4]
    assert [card[0] for card in cards] == ["Best valid loss", "Trials", "Time of all trials", "Cache"]
    assert cards[0][2] == f"trial {winner.number}"
    assert cards[1][1] == "40"
    assert cards[3][1] == "saved 9 min"
    assert sum(int(count) for count in re.findall(r"\d+", cards[1][2])) == 40


def test_long_reasons_and_long_histories_do_not_swell_the_page() -> None:
    trials = [replace(trial, reason="x" * 100_000, losses=trial.losses * 1000) for trial in search(100)]
    assert len(made(trials).encode()) < 3_000_000
