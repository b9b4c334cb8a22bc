"""Ten times what the server can do: it goes on doing what it can, and tells the rest at once to come back."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from tests.support.bundles import write_bundle
from tests.support.figures import RecordFigure
from tests.support.load import Asked, load
from tests.support.servers import Server, serving
from tests.support.soak import Scale

DEPTH: Final = 16
"""Heavy layers, for some 30 pictures a second on a core: ten times as many requests are no load for anybody else."""
OVERLOAD: Final = 10
OVERLOAD_S: Final = 60
CAPACITY_S: Final = 40
NUM_CALLERS: Final = 16
"""Enough to keep full batches waiting."""
MAX_QUEUE: Final = 64
"""The server's default."""
GOODPUT: Final = 0.9
REFUSAL_S: Final = 0.05
WAIT: Final = 2.0
"""Longest wait of those accepted (p99), as a multiple of what the engine takes for as many as may be under way."""
GROWTH: Final = 1.25
"""Of that wait, from the first half to the second."""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Server]:
    """A server whose engine has a core's worth of work for each request, and one thread to do it with."""
    heavy = write_bundle(tmp_path / "heavy", depth=DEPTH)
    with serving(heavy.folder, tmp_path / "log", "--threads", "1", "--max-queue-size", str(MAX_QUEUE)) as running:
        yield running.wait_until_ready()


def rate_of(asked: Sequence[Asked], seconds: float) -> float:
    """Requests answered with labels, in 1/s, while the load ran: what was late counts no more."""
    return sum(one.status_code == 200 and one.answered_s <= seconds for one in asked) / seconds


def p99_s(asked: Sequence[Asked]) -> float:
    """Of those answered with labels."""
    return float(np.percentile([one.took_s for one in asked if one.status_code == 200], 99))


@pytest.mark.slow
def test_ten_times_its_capacity_costs_the_server_none_of_it(
    slow: Server, scale: Scale, record_figure: RecordFigure
) -> None:
    load(slow.port, 2, "closed", NUM_CALLERS)
    measuring_s, seconds = scale.count(CAPACITY_S), scale.count(OVERLOAD_S)
    before = rate_of(load(slow.port, measuring_s, "closed", NUM_CALLERS), measuring_s)
    asked = load(slow.port, seconds, "open", OVERLOAD * before)
    assert {one.status_code for one in asked} == {200, 503}
    after = rate_of(load(slow.port, measuring_s, "closed", NUM_CALLERS), measuring_s)
    capacity = (before + after) / 2  # neighbours come and go
    halves = [p99_s([one for one in asked if (one.sent_s < seconds / 2) == first]) for first in (True, False)]
    refused = [one for one in asked if one.status_code == 503]
    refusal_s = float(np.percentile([one.took_s for one in refused], 95))
    goodput, longest_s = rate_of(asked, seconds), WAIT * MAX_QUEUE / capacity
    record_figure(
        f"capacity {before:.1f}/s before, {after:.1f} after; {len(asked)} requests in {seconds} s: "
        f"goodput {goodput:.1f}/s ({goodput / capacity:.0%}); accepted: p99 {halves[0]:.2f} s in the first half, "
        f"{halves[1]:.2f} in the second, bound {longest_s:.2f}; "
        f"{len(refused)} got 503, p95 {1000 * refusal_s:.1f} ms after the last byte"
    )
    assert all(one.is_told_when for one in refused)
    assert goodput > scale.share(GOODPUT, of_few=0.6) * capacity
    assert max(halves) < longest_s * scale.share(1, of_few=1.5)
    assert halves[1] < halves[0] * scale.share(GROWTH, of_few=1.6)
    assert refusal_s < scale.share(REFUSAL_S, of_few=5 * REFUSAL_S)
