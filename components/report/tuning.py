"""tuning.html: what a search tried, what came of it, and which settings mattered."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from components.report.charts import meter
from components.report.drawing import shortened
from components.report.markup import Attribute, Child, Markup, element, join
from components.report.page import Card, Column, Value, cards, grid, page, section, table
from components.report.scales import duration, number, percent
from components.report.search import Search, categories, named, said, setting, shown
from components.report.trial_charts import importance, losses, pareto, progress, slice_of, together
from components.tune.objective import Objective
from components.tune.space import Space
from components.tune.trials import Trial

FILE: Final = "tuning.html"
_LONGEST_REASON: Final = 300
"""Characters; trials.csv and the log have the whole of it."""
_STATES: Final = ("complete", "pruned", "failed", "running")


def tuning_page(
    trials: Sequence[Trial],
    space: Space,
    objectives: Sequence[Objective],
    importances: Mapping[str, float],
    *,
    title: str,
    facts: Sequence[Card] = (),
) -> str:
    """The page of a search.

    Args:
        trials: All of them, in whatever state; there may be none.
        space: What was searched.
        objectives: At least one; the first one colors the lines and is what settings are shown against.
        importances: Shares by setting that add up to 1; empty where there is no telling.
        title: What was tuned on what.
        facts: More numbers for the top of the page.
    """
    search = Search(trials, space, objectives)
    others = range(1, len(objectives))
    charts = [progress(search, place) for place in range(len(objectives))]
    charts += [pareto(search, place) for place in others]
    by_importance = sorted(search.settings, key=lambda name: -importances.get(name, 0.0))
    reading = "Point at a trial, or focus a chart and use the arrow keys: it is shown in all charts and in the table."
    slices = [slice_of(search, name) for name in by_importance]
    mattering = f"{named(objectives[0]).capitalize()} against each setting, the most important one first."
    return page(
        "Tuning",
        title,
        cards([*_cards(search), *facts]),
        *_winners(search),
        section("Search", reading, grid(*charts, losses(search))),
        section("Settings", "", together(search) if search.settings else None),
        section("What mattered", mattering, grid(importance(importances), *slices)),
        section("Trials", "Click a heading to sort.", _table(search)),
    )


def _cards(search: Search) -> list[Card]:
    entries = []
    for place, objective in enumerate(search.objectives):
        winner = search.best(place)
        value = "-" if winner is None else said(objective, winner.values[place])
        entries.append(Card(f"Best {named(objective)}", value, f"trial {winner.number}" if winner else "no trial yet"))
    counts = Counter(trial.state for trial in search.trials)
    note = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state] or state != "running")
    times = [trial.seconds for trial in search.trials]
    each = f"{duration(median(times))} each; the median trial" if times else ""
    entries.append(Card("Trials", f"{len(search.trials):,}", note))
    return [*entries, Card("Time of all trials", duration(sum(times)), each)]


def _winners(search: Search) -> list[Markup]:
    """The settings that somebody came for, or why there are none."""
    if all(trial.state != "complete" for trial in search.trials):
        reason = next((trial.reason for trial in search.trials if trial.state == "failed"), "")
        first = (
            join(" The first that failed says: ", element("bdi", shortened(reason, _LONGEST_REASON)))
            if reason
            else None
        )
        return [element("section", element("h2", "Best settings"), element("p", "No trial is complete.", first))]
    made = []
    for place, objective in enumerate(search.objectives):
        winner = search.best(place)
        if winner is not None:
            heading = f"Trial {winner.number}, {named(objective)} {said(objective, winner.values[place])}"
            made += [element("p", heading), _settings(winner)]
    return [element("section", element("h2", "Best settings"), *made)]


def _settings(trial: Trial) -> Markup:
    entries = [
        element("div", element("dt", setting(name)), element("dd", element("bdi", shown(value))))
        for name, value in trial.parameters.items()
    ]
    return element("dl", *entries, class_="settings")


def _table(search: Search) -> Markup:
    are_numbers = {name: not categories(search, name) for name in search.settings}
    columns = [
        Column("trial", is_number=True),
        Column("state"),
        *(Column(setting(name), is_number=are_numbers[name]) for name in search.settings),
        *(Column(named(objective), is_number=True) for objective in search.objectives),
        *(Column(name, is_number=True) for name in ("epochs run", "seconds", "share of time")),
        Column("reason"),
    ]
    total = sum(trial.seconds for trial in search.trials)
    rows = [_row(search, trial, are_numbers, total) for trial in search.trials]
    facts: list[dict[str, Attribute]] = [
        {"data_trial": trial.number, "class_": "best" if trial.number in search.chosen else None}
        for trial in search.trials
    ]
    return table("What each trial tried and came to", columns, rows, facts)


def _row(search: Search, trial: Trial, are_numbers: Mapping[str, bool], total_s: float) -> list[Child | Value]:
    badge = "front" if len(search.objectives) > 1 else "best"
    name = join(element("b", badge, class_="badge"), str(trial.number)) if trial.number in search.chosen else None
    share = trial.seconds / total_s if total_s > 0 else 0.0
    values = [
        Value(said(objective, trial.values[place]), trial.values[place])
        if trial.state == "complete"
        else Value("-", math.nan)
        for place, objective in enumerate(search.objectives)
    ]
    return [
        Value(name or str(trial.number), trial.number),
        trial.state,
        *(_tried(trial, name, is_number=is_number) for name, is_number in are_numbers.items()),
        *values,
        Value(str(len(trial.losses)), len(trial.losses)),
        Value(number(round(trial.seconds, 2)), trial.seconds),
        Value(join(meter(share), percent(share)), share),
        shortened(trial.reason, _LONGEST_REASON),
    ]


def _tried(trial: Trial, name: str, *, is_number: bool) -> Child | Value:
    if name not in trial.parameters:
        return Value("-", math.nan) if is_number else "-"
    value = trial.parameters[name]
    return Value(shown(value), float(value)) if is_number else shown(value)
