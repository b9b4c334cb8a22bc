"""What a run says of tests that could not run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engine import ROOT

TESTS = """
import pytest

@pytest.mark.docker
def test_with_an_engine(): pass

def test_without(): pass
"""
ON_A_GPU = """
import pytest

@pytest.mark.gpu
def test_on_a_gpu(): raise AssertionError

def test_without(): pass
"""
SKIPPED = """
import pytest

def test_that_skips(): pytest.skip("never")
"""


def run(folder: Path, source: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    (folder / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml"), str(folder)]
    kept = {name: value for name, value in os.environ.items() if name not in {"REQUIRE_DOCKER", "DOCKER_HOST"}}
    return subprocess.run(command, cwd=ROOT, env=kept | variables, capture_output=True, text=True, check=False)


def test_without_an_engine_one_line_says_how_many_were_left_out(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS, DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 deselected" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert lines[0].startswith("left out: 1 tests that need a Docker engine, since ")


def test_without_a_gpu_one_line_says_how_many_were_left_out_and_they_are_not_skipped(tmp_path: Path) -> None:
    done = run(tmp_path, ON_A_GPU, CUDA_VISIBLE_DEVICES="", REQUIRE_DOCKER="1")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 deselected" in done.stdout
    assert "left out: 1 tests that need a GPU, since torch finds none" in done.stdout


def test_with_require_docker_a_missing_engine_ends_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS, DOCKER_HOST="unix:///nowhere/docker.sock", REQUIRE_DOCKER="1")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "REQUIRE_DOCKER=1, but" in done.stderr


def test_with_require_docker_a_skipped_test_fails_the_run_and_the_number_is_printed(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPED, REQUIRE_DOCKER="1")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "tests skipped: 1, must be 0" in done.stdout
    assert run(tmp_path, SKIPPED).returncode == 0
