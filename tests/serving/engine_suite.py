"""What every engine must do; each engine's test module imports these and provides `engine` and its `bundle`."""

import numpy as np
import pytest

from serving import golden
from serving.bundle import Bundle
from serving.engines import Engine
from serving.errors import EngineError
from serving.preprocess import Pixels
from tests.support import images


@pytest.fixture(scope="module")
def batch_tolerance() -> float:
    """Of logits, relative to the largest: kernels sum in another order for another batch size."""
    return 1e-4


def pictures(bundle: Bundle, count: int) -> Pixels:
    spec = bundle.manifest.input
    return np.stack([images.noise(spec.height, spec.width, seed=seed) for seed in range(count)])


def test_golden_logits_hold(engine: Engine, bundle: Bundle) -> None:
    assert golden.check(bundle, engine) < engine.tolerance


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 33])
def test_a_batch_changes_no_answer_and_keeps_the_order(
    engine: Engine, bundle: Bundle, batch_size: int, batch_tolerance: float
) -> None:
    pixels = pictures(bundle, batch_size)
    alone = np.concatenate([engine.infer(pixels[index : index + 1]) for index in range(batch_size)])
    together = engine.infer(pixels)
    np.testing.assert_allclose(together, alone, rtol=0, atol=batch_tolerance * np.abs(alone).max())
    assert batch_size < 3 or np.ptp(together, axis=0).max() > 5 * batch_tolerance * np.abs(alone).max()


def test_logits_are_float32_with_a_column_for_each_label(engine: Engine, bundle: Bundle) -> None:
    logits = engine.infer(pictures(bundle, 2))
    assert logits.shape == (2, len(bundle.manifest.labels))
    assert logits.dtype == np.float32


def test_the_same_picture_has_the_same_logits_every_time(engine: Engine, bundle: Bundle) -> None:
    pixels = pictures(bundle, 4)
    np.testing.assert_array_equal(engine.infer(pixels), engine.infer(pixels))


def test_pixels_of_a_wrong_shape_or_type_are_refused_and_the_engine_goes_on(engine: Engine, bundle: Bundle) -> None:
    good = pictures(bundle, 2)
    for bad in (good[:0], good[0], good[:, 1:], good[..., :2], good.transpose(0, 3, 1, 2), good.astype(np.float32)):
        with pytest.raises(EngineError, match="expected uint8"):
            engine.infer(bad)  # type: ignore[arg-type]  # one of them is float, which is the point
    assert len(engine.infer(good)) == 2


def test_options_say_how_it_runs(engine: Engine) -> None:
    assert {"runtime", "threads", "dtype"} <= set(engine.options)
