"""Which engines there are, and how wide they run."""

import subprocess
import sys
from typing import get_args

import pytest

from serving.bundle import Bundle
from serving.engines import ENGINES, open_engine
from serving.errors import ConfigError
from serving.settings import ServerSettings
from tests.support.bundles import write_bundle
from tests.support.servers import ROOT


def test_the_setting_offers_the_engines_that_exist() -> None:
    assert get_args(ServerSettings.model_fields["engine"].annotation) == tuple(ENGINES)


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="engine 'tpu' does not exist, expected one of onnx, onnx-int8, torch"):
        open_engine("tpu", bundle)


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_a_batch_that_memory_is_too_small_for_is_said_in_a_sentence_and_the_engine_goes_on(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = write_bundle(tmp_path_factory.mktemp("bundle"), with_torch=True)
    script = """
import resource, sys
from pathlib import Path
import numpy as np
from serving import bundle, engines
from serving.errors import OutOfMemory
engine = engines.open_engine(sys.argv[1], bundle.read(Path(sys.argv[2])), 1)
pixels = np.zeros((40_000, 24, 20, 3), np.uint8)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, before[1]))
try: engine.infer(pixels)
except OutOfMemory as error: print(error)
resource.setrlimit(resource.RLIMIT_AS, before)
print(len(engine.infer(pixels[:3])))
"""
    command = [sys.executable, "-c", script, name, str(bundle.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    sentence, count = done.stdout.splitlines()
    assert sentence.startswith("there is not enough memory for a batch of 40000: run smaller batches")
    assert count == "3"
