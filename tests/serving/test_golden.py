"""Golden inputs find a wrong model, engine or decoder before traffic does."""

from pathlib import Path

import numpy as np
import pytest

from serving import bundle as bundles
from serving import golden
from serving.bundle import Bundle
from serving.engines import TOLERANCE, Logits, open_engine
from serving.errors import BundleError
from serving.preprocess import Pixels
from tests.support.bundles import SPEC, reseal, write_model


def check(folder: Path) -> float:
    bundle = bundles.read(folder)
    return golden.check(bundle, open_engine("onnx", bundle, 1))


def rewrite(folder: Path, **changes: object) -> None:
    """Put other arrays into golden.npz, and seal the bundle again."""
    path = folder / bundles.GOLDEN
    with np.load(path) as arrays:
        content = dict(arrays) | changes
    np.savez(path, **content)
    reseal(folder)


def test_the_model_that_wrote_them_passes(bundle: Bundle) -> None:
    assert check(bundle.folder) < 1e-5


def test_another_model_is_found_even_when_the_manifest_was_sealed_again(own_bundle: Path) -> None:
    write_model(own_bundle / bundles.ONNX_MODEL, seed=1, num_labels=7)
    reseal(own_bundle)
    with pytest.raises(BundleError, match="do not belong together"):
        check(own_bundle)


def test_a_decoder_that_makes_other_pixels_is_found(own_bundle: Path) -> None:
    pixels = golden.read(bundles.read(own_bundle)).jpeg_pixels
    rewrite(own_bundle, jpeg_pixels=pixels ^ 1)  # rounding may differ by one step
    assert check(own_bundle) < 1e-5
    rewrite(own_bundle, jpeg_pixels=pixels ^ 2)
    with pytest.raises(BundleError, match="another decoder"):
        check(own_bundle)


def test_logits_that_are_not_numbers_never_pass(own_bundle: Path) -> None:
    expected = golden.read(bundles.read(own_bundle)).logits["onnx"]
    rewrite(own_bundle, logits_onnx=np.full_like(expected, np.nan))
    with pytest.raises(BundleError, match="nan"):
        check(own_bundle)


def test_an_engine_of_which_nothing_is_expected_does_not_pass(bundle: Bundle) -> None:
    class Other:
        name = "other"
        tolerance = TOLERANCE

        @property
        def options(self) -> dict[str, str]:
            return {}

        def infer(self, pixels: Pixels) -> Logits:
            return np.zeros((len(pixels), 7), np.float32)

    with pytest.raises(BundleError, match=r"golden logits of \['onnx'\], none of 'other'"):
        golden.check(bundle, Other())


def test_pickled_arrays_are_refused_and_not_unpickled(own_bundle: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (own_bundle.joinpath("exploded").touch, ())

    rewrite(own_bundle, pixels=np.array([Bomb()], dtype=object))
    (own_bundle / "exploded").unlink(missing_ok=True)
    with pytest.raises(BundleError, match="does not hold golden inputs"):
        check(own_bundle)
    assert not (own_bundle / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive"])
def test_a_file_that_holds_no_arrays_is_refused(own_bundle: Path, content: bytes) -> None:
    (own_bundle / bundles.GOLDEN).write_bytes(content)
    reseal(own_bundle)
    with pytest.raises(BundleError, match="does not hold golden inputs"):
        check(own_bundle)


@pytest.mark.parametrize(
    ("logits", "reason"),
    [
        (np.ones((4, 3), np.float32), "the same logits to every input"),
        (np.full((4, 3), np.inf, np.float32), "not finite"),
    ],
)
def test_logits_that_would_check_nothing_are_not_written(tmp_path: Path, logits: Logits, reason: str) -> None:
    stored = golden.Golden(golden.make_inputs(SPEC), {"onnx": logits}, golden.make_jpeg(SPEC), np.zeros(1, np.uint8))
    with pytest.raises(BundleError, match=reason):
        golden.write(tmp_path / bundles.GOLDEN, stored)
    assert list(tmp_path.iterdir()) == []
