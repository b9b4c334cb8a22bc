import math

import pytest

from components.report.scales import Scale, duration, fit, number, percent


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.13, 0.92], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([3, 47], [0, 10, 20, 30, 40, 50]),
        ([0.00021, 0.00098], [0.0002, 0.0004, 0.0006, 0.0008, 0.001]),
        ([-1.0, 1.0], [-1.0, -0.5, 0.0, 0.5, 1.0]),
    ],
)
def test_ticks_stand_at_round_numbers_and_hold_the_data_between_them(values: list[float], ticks: list[float]) -> None:
    scale = fit(values, 0, 100)
    assert scale.ticks() == pytest.approx(ticks)
    assert scale.low <= min(values)
    assert scale.high >= max(values)


def test_a_logarithmic_axis_has_a_tick_for_each_power_of_ten_and_equal_steps_between_them() -> None:
    scale = fit([1e-6, 1.0], 0, 60, is_log=True)
    assert scale.ticks(8) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert [scale(value) for value in (1e-6, 1e-3, 1.0)] == pytest.approx([0, 30, 60])


def test_a_short_logarithmic_axis_has_ticks_between_the_powers() -> None:
    assert fit([1, 100], 0, 60, is_log=True).ticks() == pytest.approx([1, 2, 5, 10, 20, 50, 100])


@pytest.mark.parametrize(
    "values",
    [
        [],
        [math.nan],
        [math.inf, -math.inf],
        [0.0],
        [5.0, 5.0],
        [-3.0],
        [1e300, 1.0000000000000002e300],
        [1e-300, 1e300],
        [5e307],
    ],
)
@pytest.mark.parametrize("is_log", [False, True])
def test_an_axis_can_be_made_of_anything(values: list[float], is_log: bool) -> None:
    scale = fit(values, 0, 100, is_log=is_log)
    assert scale.high > scale.low
    assert scale.ticks()
    assert all(math.isfinite(scale(tick)) for tick in scale.ticks())


def test_all_zeros_stand_on_an_axis_from_zero() -> None:
    assert fit([0.0, 0.0], 0, 100, with_zero=True).low == 0


def test_bounds_are_kept_where_rounding_would_leave_them() -> None:
    scale = fit([0.55, 1.0], 0, 100, bounds=(0.0, 1.0))
    assert scale.high == 1


def test_what_has_no_place_is_known() -> None:
    assert not Scale(1, 10, 0, 1, is_log=True).shows(0)
    assert not Scale(0, 10, 0, 1).shows(math.nan)
    assert Scale(0, 10, 0, 1).shows(0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.001, "0.001"),
        (1.25, "1.25"),
        (12000, "12,000"),
        (3e-5, "3e-5"),
        (100, "100"),
        (math.nan, "not a number"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_times_and_shares_are_said_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (0.42, 59.94, 245, 7800)] == [
        "0.4 s",
        "59.9 s",
        "4 min 05 s",
        "2 h 10 min",
    ]
    assert [percent(share) for share in (0.975, math.nan)] == ["97.5%", "-"]
