"""Which engines there are, and how wide they run."""

import os
from pathlib import Path
from typing import get_args

import pytest

from serving.bundle import Bundle
from serving.engines import ENGINES, num_cpus, open_engine
from serving.errors import ConfigError
from serving.settings import ServerSettings

ALLOWED = len(os.sched_getaffinity(0))


def test_the_setting_offers_the_engines_that_exist() -> None:
    assert get_args(ServerSettings.model_fields["engine"].annotation) == tuple(ENGINES)


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="engine 'tpu' does not exist, expected one of onnx, onnx-int8, torch"):
        open_engine("tpu", bundle)


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", ALLOWED), ("50000 100000", 1), ("100000 100000", 1), ("9900000 100000", ALLOWED)]
)
def test_cpus_are_the_quota_of_control_groups_v2_rounded_up(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert num_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", ALLOWED), ("50000", 1), ("9900000", ALLOWED)])
def test_cpus_are_the_quota_of_control_groups_v1_rounded_up(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert num_cpus(tmp_path) == cpus


def test_without_a_quota_cpus_are_those_of_the_process(tmp_path: Path) -> None:
    assert num_cpus(tmp_path) == ALLOWED
