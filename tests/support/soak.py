"""How much is done in tests of what the server must survive: all of it in `make soak`, a tenth in `make test`."""

import os
from dataclasses import dataclass
from typing import Final

SOAK: Final = os.environ.get("KENNEL_SOAK", "") not in {"", "0"}
MINUTES: Final = float(os.environ.get("KENNEL_SOAK_MINUTES", "60"))
"""Of the longest of them."""
SHARE: Final = 10
"""What `make test` leaves out of it: it does one in so many."""


@dataclass(frozen=True)
class Scale:
    """Which of the two it is."""

    is_full: bool

    def count(self, full: int) -> int:
        """So many instead of `full`."""
        return full if self.is_full else max(1, full // SHARE)

    def share(self, full: float, *, of_few: float) -> float:
        """A limit: `full`, or `of_few` where a tenth of the time on a busy machine says less."""
        return full if self.is_full else of_few
