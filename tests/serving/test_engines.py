"""Which engines there are, and how wide they run."""

from typing import get_args

import pytest

from serving.bundle import Bundle
from serving.engines import ENGINES, open_engine
from serving.errors import ConfigError
from serving.settings import ServerSettings


def test_the_setting_offers_the_engines_that_exist() -> None:
    assert get_args(ServerSettings.model_fields["engine"].annotation) == tuple(ENGINES)


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="engine 'tpu' does not exist, expected one of onnx, onnx-int8, torch"):
        open_engine("tpu", bundle)
