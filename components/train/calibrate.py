"""Probabilities that mean what they say: of the answers given with 80 %, 80 % should be right.

One number does it, the temperature that logits are divided by before softmax. It changes no order, so no label.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.train.metrics import softmax
from serving.engines import Logits

MIN_TEMPERATURE: Final = 0.05
MAX_TEMPERATURE: Final = 20.0
HALVINGS: Final = 60  # of the interval of 1/T: down to the last bit of a float


def fit_temperature(logits: Logits, targets: NDArray[np.int64]) -> float:
    """The temperature under which `targets` are most likely, within `MIN_TEMPERATURE` and `MAX_TEMPERATURE`.

    Beside the samples one more is counted whose label may be any (Platt 1999, section 2.2, does so with two classes):
    of N samples that are all right, the next is expected to be right with N / (N + 1), not for certain. Without it,
    samples without a mistake would ask for temperature 0, and a handful of them would be believed like thousands.

    The likelihood is concave in 1/T, so where its slope changes sign is its one maximum, found by bisection.

    Args:
        logits: (N, K) of samples that were not trained on; without any the answer is 1.
        targets: (N,)
    """
    if len(targets) == 0:
        return 1.0
    exact = logits.astype(np.float64)
    doubt = 1 / (len(targets) + 1)
    of_targets = exact[np.arange(len(targets)), targets]
    observed = float(((1 - doubt) * of_targets + doubt * exact.mean(axis=1)).mean())

    def slope(inverse: float) -> float:
        expected = (softmax(logits, 1 / inverse) * exact).sum(axis=1)
        return observed - float(expected.mean())

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if slope(middle) > 0:
            low = middle
        else:
            high = middle
    return round(2 / (low + high), 6)
