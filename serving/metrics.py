"""What /metrics says: where time goes, what is refused, and what a drifting model or camera would change.

Names and units follow Prometheus's practice: base units in the name, `_total` for what only grows.
"""

from collections.abc import Callable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PICTURES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
PHASES: Final = ("decode", "queue", "model")


class Metrics:
    """The measurements of one application."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "kennel_requests", "Requests answered, by route and status code", ["route", "code"], registry=registry
        )
        self.request_seconds = Histogram(
            "kennel_request_seconds",
            "From the first line of a request to the end of its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.refusals = Counter(
            "kennel_refusals", "Requests not answered, by the error that they were told", ["error"], registry=registry
        )
        self.undecodable = Counter("kennel_decode_failures", "Pictures that could not be read", registry=registry)
        self.batch_pictures = Histogram(
            "kennel_batch_pictures", "Pictures in a batch", buckets=PICTURES, registry=registry
        )
        self.confidence = Histogram(
            "kennel_confidence", "Probability of the most probable label", ["model"], buckets=SHARES, registry=registry
        )
        self.predictions = Counter(
            "kennel_predictions", "Pictures by their most probable label", ["model", "label"], registry=registry
        )
        phase_seconds = Histogram(
            "kennel_phase_seconds", "Of a picture, by phase", ["phase"], buckets=SECONDS, registry=registry
        )
        self._phases = [phase_seconds.labels(phase) for phase in PHASES]

    def watch(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when somebody asks."""
        Gauge(name, documentation, registry=self._registry).set_function(value)

    def observe_answer(self, model: str, label: str, probability: float) -> None:
        """Of one picture, its most probable label."""
        self.confidence.labels(model).observe(probability)
        self.predictions.labels(model, label).inc()

    def forget(self, model: str) -> None:
        """What was told of a model that is no more; names come and go by thousands."""
        for metric in (self.confidence, self.predictions):
            metric.remove_by_labels({"model": model})

    def observe_phases(self, *seconds: float) -> None:
        """Of one picture, in the order of `PHASES`."""
        for phase, duration in zip(self._phases, seconds, strict=True):
            phase.observe(duration)

    def write(self, accept: str) -> tuple[bytes, str]:
        """All of it in the form that is asked for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
