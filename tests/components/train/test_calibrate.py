import numpy as np
import pytest
from numpy.typing import NDArray

from components.report.mistakes import calibration_bins, expected_calibration_error
from components.train.calibrate import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature
from components.train.metrics import cross_entropy, softmax
from serving.engines import Logits


def honest(count: int, seed: int = 0) -> tuple[Logits, NDArray[np.int64]]:
    """Logits whose probabilities are true: targets are drawn from them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, 10)).astype(np.float32)
    drawn = softmax(logits).cumsum(axis=1) > generator.random((count, 1))
    return logits, drawn.argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_the_temperature_that_was_put_on_is_found_and_mends_the_error(temperature: float) -> None:
    logits, targets = honest(5000)
    skewed = (logits * temperature).astype(np.float32)
    fitted = fit_temperature(skewed, targets)
    assert fitted == pytest.approx(temperature, rel=0.05)
    before, after = (
        expected_calibration_error(calibration_bins(targets, softmax(skewed, divisor))) for divisor in (1.0, fitted)
    )
    assert after < 0.025
    assert temperature == 1.0 or before > 4 * after


def test_no_other_temperature_is_more_likely() -> None:
    logits, targets = honest(20_000)
    fitted = fit_temperature(logits, targets)
    losses = [cross_entropy((logits / (fitted * factor)).astype(np.float32), targets) for factor in (0.97, 1, 1.03)]
    assert min(losses) == losses[1]


@pytest.mark.parametrize("count", [1, 10, 500])
def test_without_a_mistake_confidence_grows_with_the_samples_and_never_to_certainty(count: int) -> None:
    logits = np.random.default_rng(0).normal(0, 1, (count, 10)).astype(np.float32)
    targets = logits.argmax(axis=1)
    logits[np.arange(count), targets] += 8
    mean = float(softmax(logits, fit_temperature(logits, targets)).max(axis=1).mean())
    # N of N were right: the next is with N / (N + 1), and by chance also when it may be anything
    assert mean == pytest.approx((count + 1 / 10) / (count + 1), abs=0.02)


def test_always_wrong_always_the_same_and_nothing_at_all_have_a_temperature_too() -> None:
    logits, _ = honest(50)
    assert fit_temperature(logits, logits.argmin(axis=1)) == pytest.approx(MAX_TEMPERATURE)
    assert MIN_TEMPERATURE <= fit_temperature(np.zeros((5, 3), np.float32), np.zeros(5, np.int64)) <= MAX_TEMPERATURE
    assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)) == 1.0
    huge = np.array([[1e30, -1e30], [1e30, -1e30]], np.float32)
    assert MIN_TEMPERATURE <= fit_temperature(huge, np.array([0, 1])) <= MAX_TEMPERATURE
