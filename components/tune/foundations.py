"""What trials stand on: prepared once for each combination of the settings that shape it, and shared."""

from collections import OrderedDict
from typing import Final

from components.environment import Environment
from components.train.prepare import Prepared, prepare
from components.train.settings import TrainSettings
from components.train.workplace import Workplace

MAX_HELD: Final = 2
"""In memory at once: trials of a search that tries several backbones come in any order."""


class Foundations:
    """The last few, in memory; what is expensive about the others is in the cache."""

    def __init__(self, environment: Environment, workplace: Workplace, *, with_test: bool) -> None:
        self._environment = environment
        self._workplace = workplace
        self._with_test = with_test
        self._held: OrderedDict[object, Prepared] = OrderedDict()

    def of(self, settings: TrainSettings) -> Prepared:
        """What a trial of these settings stands on.

        Raises:
            UserError: Settings or data cannot be used as they are.
        """
        key = settings.foundation
        if key not in self._held:
            while len(self._held) >= MAX_HELD:
                self._held.popitem(last=False)
            self._held[key] = prepare(settings, self._environment, self._workplace, with_test=self._with_test)
        self._held.move_to_end(key)
        return self._held[key]
