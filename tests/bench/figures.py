"""From what was measured to figures: medians of rounds, ratios between servers, and whether each is as it has to be."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.bench.load import Load
from tests.bench.servers import FRAMEWORKS, Memory

CONNECTIONS: Final = (1, 8, 32)


@dataclass(frozen=True)
class Round:
    """One server in one round."""

    start_s: float
    loads: Mapping[int, Load]
    """By connections."""
    ping_p99_ms: float
    ping_max_ms: float
    memory: Memory
    burnt: Load
    """At 8 connections, beside a process that burns a core."""


@dataclass(frozen=True)
class Server:
    """One server over all rounds: medians, but the worst ping."""

    requests_per_s: Mapping[int, float]
    p50_ms: Mapping[int, float]
    p99_ms: Mapping[int, float]
    start_s: float
    ping_p99_ms: float
    ping_max_ms: float
    pss_mb: float
    rss_mb: float
    burnt_share: float
    """Of the throughput of the same round, beside a process that burns a core."""
    failures: int
    """Answers that were not 200, and requests without one, in all rounds."""


def summarise(rounds: list[Round]) -> Server:
    """Medians of at least one round."""

    def by_connections(name: str) -> dict[int, float]:
        return {number: _median(getattr(one.loads[number], name) for one in rounds) for number in rounds[0].loads}

    return Server(
        requests_per_s=by_connections("requests_per_s"),
        p50_ms=by_connections("p50_ms"),
        p99_ms=by_connections("p99_ms"),
        start_s=_median(one.start_s for one in rounds),
        ping_p99_ms=_median(one.ping_p99_ms for one in rounds),
        ping_max_ms=max(one.ping_max_ms for one in rounds),
        pss_mb=_median(one.memory.pss_mb for one in rounds),
        rss_mb=_median(one.memory.rss_mb for one in rounds),
        burnt_share=_median(_ratio(one.burnt.requests_per_s, one.loads[8].requests_per_s) for one in rounds),
        failures=sum(load.refused + load.broken for one in rounds for load in [*one.loads.values(), one.burnt]),
    )


@dataclass(frozen=True)
class Figure:
    """A ratio or a size, and what it has to be."""

    name: str
    value: float | None
    """None: not measured."""
    target: float
    is_at_least: bool
    aim: float | None = None
    unit: str = ""

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.value is None or math.isnan(self.value):
            return "not measured"
        return "met" if (self.value >= self.target if self.is_at_least else self.value <= self.target) else "MISSED"

    def line(self) -> str:
        """For the table."""
        value = "" if self.value is None else _shown(self.value)
        relation = "at least" if self.is_at_least else "at most"
        aim = "" if self.aim is None else f" (aim: {self.aim:g})"
        return f"  {self.name:66} {value:>8} {self.unit:3} {relation:8} {self.target:g}{aim}: {self.verdict}"


def _shown(value: float) -> str:
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.1e}"


def judge(servers: Mapping[str, Server], bounds: Mapping[str, float], image_mb: float | None) -> list[Figure]:
    """All figures that `make bench-serve` is about; what was not measured stays in the list."""

    def rate(name: str) -> float | None:
        return servers[name].requests_per_s[8] if name in servers else None

    def own(read: Callable[[Server], float]) -> float | None:
        return read(servers["kennel"]) if "kennel" in servers else None

    frameworks = [servers[name] for name in FRAMEWORKS if name in servers]
    best_rate = max((server.requests_per_s[8] for server in frameworks), default=None)
    best_p50 = min((server.p50_ms[1] for server in frameworks), default=None)
    bare = max(bounds["onnx_batch_1_images_per_s"], bounds["onnx_batch_8_images_per_s"])
    fp32 = _divide(rate("kennel"), best_rate)
    int8 = _divide(rate("kennel-int8"), best_rate)
    p50 = _divide(own(lambda kennel: kennel.p50_ms[1]), best_p50)
    return [
        Figure("throughput at 8 connections, fp32, by the best server framework's", fp32, 1.55, True, 1.8),
        Figure("the same by the usual script's", _divide(rate("kennel"), rate("usual")), 2.0, True),
        Figure("the same by the bare engine's", _divide(rate("kennel"), bare), 0.85, True, 0.95),
        Figure("throughput at 8 connections, int8, by the best server framework's", int8, 2.3, True, 2.8),
        Figure("p50 at 1 connection by the best server framework's", p50, 0.55, False),
        Figure(
            "p99 by p50 at 32 connections", own(lambda kennel: _ratio(kennel.p99_ms[32], kennel.p50_ms[32])), 1.5, False
        ),
        Figure("/ping at 32 connections, the slowest", own(lambda kennel: kennel.ping_max_ms), 50, False, unit="ms"),
        Figure("resident memory after load, fp32", own(lambda kennel: kennel.rss_mb), 400, False, unit="MB"),
        Figure("start to the first photograph answered", own(lambda kennel: kennel.start_s), 2.5, False, unit="s"),
        Figure("cpu image", image_mb, 400, False, unit="MB"),
        Figure("throughput beside a process that burns a core", own(lambda kennel: kennel.burnt_share), 0.5, True),
        Figure("decode and resize 3000x2250 px", bounds["camera_preprocess_ms"], 45, False, unit="ms"),
        Figure("the same, reduced-scale decode", bounds.get("reduced_preprocess_ms"), 25, False, unit="ms"),
    ]


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of what every round measured."""
    return {name: _median(one[name] for one in rounds) for name in rounds[0]}


def table(servers: Mapping[str, Server], titles: Mapping[str, str]) -> str:
    """A line for each server."""
    head = (
        f"{'':18}{'requests/s at':^22}{'p50 ms at':^24}{'p99 ms at':^24}{'ping ms':^15}{'memory MB':^13}"
        f"{'start':>7}{'burnt':>7}{'failed':>7}\n"
        f"{'server':18}{'1':>6}{'8':>8}{'32':>8}{'1':>8}{'8':>8}{'32':>8}{'1':>8}{'8':>8}{'32':>8}"
        f"{'p99':>8}{'max':>7}{'PSS':>7}{'RSS':>6}{'s':>7}{'share':>7}"
    )
    return "\n".join([head, *(_row(titles[name], server) for name, server in servers.items())])


def _row(title: str, server: Server) -> str:
    rates = "".join(f"{server.requests_per_s[number]:{6 if number == 1 else 8}.1f}" for number in CONNECTIONS)
    times = "".join(f"{of[number]:8.0f}" for of in (server.p50_ms, server.p99_ms) for number in CONNECTIONS)
    rest = f"{server.ping_p99_ms:8.1f}{server.ping_max_ms:7.0f}{server.pss_mb:7.0f}{server.rss_mb:6.0f}"
    return f"{title:18}{rates}{times}{rest}{server.start_s:7.1f}{server.burnt_share:7.2f}{server.failures:7}"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if 0 < denominator < math.inf else math.nan


def _divide(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or denominator is None else _ratio(numerator, denominator)
