"""What the search does before a trial: the pass of a new backbone, and how long it takes to answer."""

import logging
from collections import Counter

from components.train.prepare import Prepared
from components.train.settings import TrainSettings
from components.train.workplace import Workplace
from components.tune.foundations import Foundations
from components.tune.latency import Latencies
from components.tune.objective import LATENCY

logger = logging.getLogger(__name__)


class Ground:
    """Makes ready what trials stand on, and counts what they were spared."""

    def __init__(self, foundations: Foundations, workplace: Workplace, latencies: Latencies | None) -> None:
        """Begin.

        Args:
            foundations: Of this process; workers find in the cache what is computed here.
            workplace: Where it is done.
            latencies: None when nobody asks for them.
        """
        self._foundations = foundations
        self._workplace = workplace
        self._latencies = latencies
        self._features_s: dict[object, float] = {}
        self._uses: Counter[object] = Counter()

    def is_ready(self, settings: TrainSettings) -> bool:
        """Whether a trial of these settings may begin at once; else nothing else should run meanwhile."""
        is_measured = self._latencies is None or self._latencies.has(settings)
        return settings.foundation in self._features_s and is_measured

    def make_ready(self, settings: TrainSettings) -> None:
        """Do what is to be done before.

        Raises:
            UserError: Settings or data cannot be used as they are.
        """
        before = self._workplace.phases.seconds.get("features", 0.0)
        prepared = self.of(settings)
        if settings.foundation not in self._features_s:
            spent = self._workplace.phases.seconds.get("features", 0.0) - before
            self._features_s[settings.foundation] = spent if prepared.inputs.are_features else 0.0
        if self._latencies is not None and not self._latencies.has(settings):
            self._latencies.measure(prepared, settings, self._workplace)
            logger.info("latency: %.1f ms a picture with %s", self._latencies.of(settings), settings.arch)

    def of(self, settings: TrainSettings) -> Prepared:
        """What a trial stands on."""
        return self._foundations.of(settings)

    def count(self, settings: TrainSettings) -> None:
        """A trial begins."""
        self._uses[settings.foundation] += 1

    def latency_ms(self, settings: TrainSettings) -> dict[str, float]:
        """The metric of that name, where it is asked for."""
        return {} if self._latencies is None else {LATENCY: self._latencies.of(settings)}

    @property
    def features_s(self) -> float:
        """Time spent on features."""
        return sum(self._features_s.values())

    @property
    def saved_s(self) -> float:
        """Time that trials would have spent on features, had each computed its own."""
        return sum(seconds * max(0, self._uses[key] - 1) for key, seconds in self._features_s.items())
