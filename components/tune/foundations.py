"""What trials stand on: prepared once for each combination of the settings that shape it, and shared."""

from collections import OrderedDict
from pathlib import Path
from typing import Final

from components.data.index import Index
from components.environment import Environment
from components.train.prepare import Prepared, index_images, prepare
from components.train.settings import TrainSettings
from components.train.workplace import Workplace

MAX_HELD: Final = 2
"""In memory at once: trials of a search that tries several backbones come in any order."""


class Foundations:
    """The last few, in memory; what is expensive about the others is in the cache."""

    def __init__(
        self, environment: Environment, workplace: Workplace, *, with_test: bool, lists: Path | None = None
    ) -> None:
        """Hold none.

        Args:
            environment: Whose channels are read when no folder is named.
            workplace: Where they are prepared.
            with_test: Whether trials are measured on the test split, too.
            lists: Folder for lists of what is odd about the data; None: another process writes them.
        """
        self._environment = environment
        self._workplace = workplace
        self._with_test = with_test
        self._lists = lists
        self._held: OrderedDict[object, Prepared] = OrderedDict()
        self._indexes: dict[object, Index] = {}

    def index(self, settings: TrainSettings) -> Index:
        """The images, listed once.

        Raises:
            DataError: They cannot be used.
        """
        key = (settings.seed, settings.class_order)
        if key not in self._indexes:
            place = self._workplace
            self._indexes[key] = index_images(settings, self._environment, place.cache, place.progress)
        return self._indexes[key]

    def of(self, settings: TrainSettings) -> Prepared:
        """What a trial of these settings stands on.

        Raises:
            UserError: Settings or data cannot be used as they are.
        """
        key = settings.foundation
        if key not in self._held:
            while len(self._held) >= MAX_HELD:
                self._held.popitem(last=False)
            self._held[key] = prepare(
                settings,
                self._environment,
                self._workplace,
                index=self.index(settings),
                lists=self._lists,
                with_test=self._with_test,
            )
        self._held.move_to_end(key)
        return self._held[key]
