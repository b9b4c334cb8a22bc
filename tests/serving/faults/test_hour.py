"""An hour at steady load: memory that grew by a little with each request would show."""

import asyncio
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from serving.bundle import Bundle
from tests.support import bodies
from tests.support.figures import RecordFigure
from tests.support.processes import MB, resident_bytes
from tests.support.servers import Server, serving
from tests.support.soak import MINUTES
from tests.support.wire import Connection, Request

NUM_CALLERS: Final = 4
WARM_UP: Final = 0.25
"""Share of the time after which allocators and caches have what they will ever have."""
NUM_BLOCKS: Final = 30
"""Into whose means samples go: one second's memory is nearly the last one's, and would count as another witness."""
SIGNIFICANCE: Final = 0.01
TIMEOUT_S: Final = 60 * MINUTES + 300


@pytest.fixture
def fresh(bundle: Bundle, tmp_path: Path) -> Iterator[Server]:
    """A server that nobody asked anything yet."""
    with serving(bundle.folder, tmp_path / "log") as running:
        yield running.wait_until_ready()


async def sample(server: Server, seconds: float) -> tuple[NDArray[np.float64], int]:
    """Resident memory in bytes, once a second under load of all that is read, and how many requests there were."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    num_requests = 0

    async def call(requests: Iterator[Request]) -> None:
        nonlocal num_requests
        async with Connection(server.port) as connection:
            while loop.time() < end:
                assert (await connection.ask(next(requests))).status_code == 200
                num_requests += 1

    samples = []
    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_CALLERS):
            group.create_task(call(cycle(bodies.corpus())))
        while loop.time() < end:
            samples.append(resident_bytes(server.process.pid))
            await asyncio.sleep(1)
    return np.array(samples, float), num_requests


@pytest.mark.soak
@pytest.mark.timeout(TIMEOUT_S)
def test_memory_does_not_grow_with_time(fresh: Server, record_figure: RecordFigure) -> None:
    samples, num_requests = asyncio.run(sample(fresh, 60 * MINUTES))
    kept = samples[int(WARM_UP * len(samples)) :]
    means = np.array([block.mean() for block in np.array_split(kept, min(NUM_BLOCKS, len(kept)))])
    hours = np.linspace(0, (1 - WARM_UP) * MINUTES / 60, len(means))
    line = stats.linregress(hours, means)
    record_figure(
        f"{MINUTES:g} minutes, {num_requests} requests: resident {kept[0] / MB:.1f} MB to {kept[-1] / MB:.1f} MB, "
        f"slope {line.slope / MB:+.2f} MB/h (standard error {line.stderr / MB:.2f}, p {line.pvalue:.3f})"
    )
    assert line.slope <= 0 or line.pvalue > SIGNIFICANCE
