"""The charts of a search: every trial is a mark in each of them, and page.js lights it in all at once."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from components.report.charts import Bar, bars
from components.report.drawing import Axis, shortened
from components.report.markup import Markup, element, isolated
from components.report.page import figure
from components.report.scales import is_wide, percent
from components.report.scatter import Dot, Kind, dot_swatch, scatter
from components.report.search import LOG_RATIO, Search, bounds, named, places, said, setting, setting_axis, shown
from components.report.threads import Thread, line_for_each, parallel
from components.tune.trials import Trial, front

_MOST_POINTS: Final = 30_000
"""Of all lines over epochs together; longer ones are thinned, for the page to stay small."""
_JITTER: Final = 0.28
"""To either side, where trials share few values."""
_FEW: Final = 20
_KINDS: Final[tuple[Kind, ...]] = ("complete", "pruned", "failed", "running")


def progress(search: Search, place: int) -> Markup:
    """An objective over the trials, with the best so far."""
    objective = search.objectives[place]
    winner = search.best(place)
    dots = [
        Dot(
            trial.number,
            trial.number,
            search.value(trial, place),
            _told(search, trial, place),
            trial.state,
            is_best=winner is not None and trial.number == winner.number,
        )
        for trial in search.trials
    ]
    steps = best_so_far(search, place)
    y = replace(search.axis(place), bounds=bounds(objective))
    x = Axis("trial", is_whole=True, bounds=(dots[0].x - 0.5, dots[0].x + 0.5) if len(dots) == 1 else None)
    chart = scatter(dots, x, y, name=f"{named(objective)} of each trial and the best so far", steps=steps)
    better = "lower" if objective.direction == "minimize" else "higher"
    text = f"The line is the best so far; {better} is better. {_of_those_without(search, place)}"
    line = [(element("svg", element("path", class_="line steps", d="M1 8H12V3H23"), **_SMALL), "best so far")]
    best_key = [(dot_swatch("complete", is_best=True), "best")] if winner else []
    return figure(
        named(objective).capitalize(), text, chart, legend=[*_legend(search), *best_key, *(line if steps else [])]
    )


def best_so_far(search: Search, place: int) -> list[tuple[float, float]]:
    """Trial number and value wherever a complete trial is better than all before it, and the end."""
    objective, steps = search.objectives[place], list[tuple[float, float]]()
    for trial in sorted(search.trials, key=lambda trial: trial.number):
        value = search.value(trial, place) if trial.state == "complete" else None
        if value is not None and (not steps or objective.is_better(value, steps[-1][1])):
            steps.append((trial.number, value))
    last = max((trial.number for trial in search.trials), default=0)
    return [*steps, (last, steps[-1][1])] if steps else []


def pareto(search: Search, place: int) -> Markup:
    """The first objective against another one; the front is emphasised, and joined where there are just these two."""
    complete = [trial for trial in search.trials if trial.state == "complete"]
    ahead = front(search.trials, search.objectives)
    dots = [
        Dot(
            trial.number,
            trial.values[0],
            trial.values[place],
            f"trial {trial.number}: {_values(search, trial)}",
            is_best=trial.number in search.chosen,
            label=str(trial.number) if trial.number in search.chosen else "",
        )
        for trial in complete
    ]
    steps = [(trial.values[0], trial.values[place]) for trial in ahead] if len(search.objectives) == 2 else []
    first, other = search.objectives[0], search.objectives[place]
    y = replace(search.axis(place), bounds=bounds(other))
    name = f"{named(first).capitalize()} against {named(other)}"
    text = "Of a trial on the front, nothing is better at one without being worse at another."
    legend = [(dot_swatch("complete", is_best=True), "Pareto front"), (dot_swatch("complete"), "other trials")]
    return figure(name, text, scatter(dots, search.axis_of_first, y, name=name, steps=steps), legend=legend)


def losses(search: Search) -> Markup | None:
    """valid_loss over the epochs of every trial; None where no trial has more than one epoch."""
    if max((len(trial.losses) for trial in search.trials), default=0) < 2:
        return None
    every = math.ceil(sum(len(trial.losses) for trial in search.trials) / _MOST_POINTS)
    threads = []
    for trial in search.ranked:
        epochs = [*range(1, len(trial.losses), every), len(trial.losses)] if trial.losses else []
        values = [loss if math.isfinite(loss := trial.losses[epoch - 1]) else None for epoch in epochs]
        title = f"{_told(search, trial, 0)}, {len(trial.losses)} epochs"
        threads.append(Thread(trial.number, epochs, values, title, *_look(search, trial)))
    known = [value for thread in threads for value in thread.y if value is not None]
    y = Axis("valid loss", is_log=min(known, default=0) > 0 and is_wide(known, LOG_RATIO))
    chart = line_for_each(threads, Axis("epoch", is_whole=True), y, name="Valid loss of each trial in each epoch")
    text = "A line for each trial, deeper for a better one; a line that ends in a dot was stopped there."
    return figure("Valid loss over epochs", text, chart)


def together(search: Search) -> Markup:
    """Parallel coordinates: all settings and what came of them."""
    orders = {name: places(search, name) for name in search.settings}
    order = [*range(1, len(search.objectives)), 0]  # the first one at the end: it colors the lines
    threads = [
        Thread(
            trial.number,
            (),
            [
                *(orders[name](trial) for name in search.settings),
                *(search.value(trial, place) for place in order),
            ],
            f"{_told(search, trial, 0)}: {_tried(search, trial)}",
            *_look(search, trial),
        )
        for trial in search.ranked
    ]
    uprights = [*(setting_axis(search, name) for name in search.settings), *(search.axis(place) for place in order)]
    chart = parallel(
        threads,
        uprights,
        name="Settings and objective of each trial",
        is_best_high=search.objectives[0].direction == "maximize",
    )
    text = "A line for each trial through its settings to what came of them, in the color of the last axis; "
    text += "thick is the best. Dashed lines are trials that did not end."
    hint = "Point at a line, or focus the chart and use the arrow keys to go from the best trial to the worst."
    made = figure("Settings and what came of them", text, chart, hint=hint)
    return element("div", made, class_="grid whole")


def importance(importances: Mapping[str, float]) -> Markup:
    """How much of the difference between trials each setting makes."""
    if not importances:
        title = element("h3", "Importance")
        text = "There is no telling yet which setting matters: it takes more trials that are complete and differ."
        return element("figure", element("figcaption", title, element("p", text)))
    ordered = sorted(importances.items(), key=lambda item: -item[1])
    entries = [Bar(setting(name), share, percent(share)) for name, share in ordered]
    text = "Share of the differences between trials that each setting explains."
    return figure("Importance", text, bars(entries, name="Importance of each setting"), hint=None)


def slice_of(search: Search, name: str) -> Markup:
    """The first objective against one setting."""
    place_of = places(search, name)
    dots = [
        Dot(
            trial.number,
            x,
            search.value(trial, 0),
            f"{_told(search, trial, 0)} at {isolated(shortened(shown(trial.parameters[name])))}",
            trial.state,
            is_best=trial.number in search.chosen,
        )
        for trial in search.trials
        if (x := place_of(trial)) is not None
    ]
    x_axis, jitter = setting_axis(search, name), 0.0
    if x_axis.categories:
        jitter = _JITTER
    elif x_axis.is_whole and not x_axis.is_log and x_axis.bounds and x_axis.bounds[1] - x_axis.bounds[0] <= _FEW:
        jitter, x_axis = _JITTER, replace(x_axis, bounds=(x_axis.bounds[0] - 0.5, x_axis.bounds[1] + 0.5))
    y = replace(search.axis_of_first, bounds=bounds(search.objectives[0]))
    title = f"{y.label} by {setting(name)}"
    chart = scatter(dots, x_axis, y, name=title, jitter=jitter)
    return figure(setting(name), "", chart)


_SMALL: Final = {"class_": "swatch", "viewBox": "0 0 24 10", "aria_hidden": "true"}


def _legend(search: Search) -> list[tuple[int | Markup, str]]:
    states = {trial.state for trial in search.trials}
    return [(dot_swatch(kind), kind) for kind in _KINDS if kind in states]


def _told(search: Search, trial: Trial, place: int) -> str:
    value = search.value(trial, place)
    objective = search.objectives[place]
    what = "no value" if value is None else f"{named(objective).removesuffix(', ms')} {said(objective, value)}"
    return f"trial {trial.number}{'' if trial.state == 'complete' else f' ({trial.state})'}: {what}"


def _values(search: Search, trial: Trial) -> str:
    told = zip(search.objectives, trial.values, strict=True)
    return ", ".join(f"{named(objective).removesuffix(', ms')} {said(objective, value)}" for objective, value in told)


def _tried(search: Search, trial: Trial) -> str:
    names = [name for name in search.settings if name in trial.parameters]
    return ", ".join(f"{setting(name)} {isolated(shortened(shown(trial.parameters[name])))}" for name in names)


def _of_those_without(search: Search, place: int) -> str:
    without = {trial.state for trial in search.trials if search.value(trial, place) is None} - {"complete"}
    states = " and ".join(kind for kind in _KINDS if kind in without)
    text = f"On the axis: {states} trials, which have no value." if states else ""
    is_told = search.objectives[place].metric == "valid_loss" and any(
        trial.state == "pruned" for trial in search.trials
    )
    return f"{text} Pruned trials stand at the lowest loss that they reached." if is_told else text


def _look(search: Search, trial: Trial) -> tuple[int | None, Kind, bool]:
    return search.level(trial), trial.state, trial.number in search.chosen
