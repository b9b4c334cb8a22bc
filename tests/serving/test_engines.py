"""Which engines there are, and how wide they run."""

import resource
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from serving.bundle import Bundle, read
from serving.engines import ENGINES, open_engine
from serving.errors import ConfigError, OutOfMemory
from serving.settings import ServerSettings
from tests.support import forked
from tests.support.bundles import write_bundle


def test_the_setting_offers_the_engines_that_exist() -> None:
    assert get_args(ServerSettings.model_fields["engine"].annotation) == tuple(ENGINES)


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="engine 'tpu' does not exist, expected one of onnx, onnx-int8, torch"):
        open_engine("tpu", bundle)


def _infer_beyond_memory(name: str, folder: Path, said: Path) -> None:
    engine = open_engine(name, read(folder), 1)
    pixels = np.zeros((40_000, 24, 20, 3), np.uint8)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, before[1]))
    try:
        engine.infer(pixels)
    except OutOfMemory as error:
        resource.setrlimit(resource.RLIMIT_AS, before)
        said.write_text(f"{error}\n{len(engine.infer(pixels[:3]))}")


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_a_batch_that_memory_is_too_small_for_is_said_in_a_sentence_and_the_engine_goes_on(
    name: str, tmp_path: Path
) -> None:
    bundle, said = write_bundle(tmp_path / "bundle", with_torch=True), tmp_path / "said"
    assert forked.start(_infer_beyond_memory, name, bundle.folder, said).wait() == 0
    sentence, count = said.read_text().splitlines()
    assert sentence.startswith("there is not enough memory for a batch of 40000: run smaller batches")
    assert count == "3"
