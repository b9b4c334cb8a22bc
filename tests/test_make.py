import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support import engine
from tests.support.engine import ROOT

TARGETS = {
    "help",
    "demo",
    "setup",
    "lock",
    "lint",
    "format",
    "test",
    "build",
    "push",
    "up",
    "down",
    "clean",
    "data",
    "weights",
    "soak",
    "bench-train",
    "bench-tune",
    "bench-gpu",
    "bench-decode",
    "bench-serve-gpu",
    "bench-serve",
}


def test_help_is_the_default_and_has_one_line_for_each_target() -> None:
    shown = engine.make().output
    assert shown == engine.make("help").output
    assert {line.split()[1] for line in shown.splitlines()} == TARGETS


def test_no_recipe_is_longer_than_three_lines() -> None:
    recipes = re.findall(r"^[a-z./]+:.*\n((?:\t.*\n)*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert max(recipe.count("\n") for recipe in recipes) <= 3


@pytest.mark.parametrize(
    ("works", "sentence"),
    [
        (
            "no",
            "make setup: Python 3.11 is needed and neither python3.11 nor python3 is one: install it, then try again",
        ),
        ("without venv", "make setup: python3.11 has no venv: install it (Debian: apt-get install python3.11-venv)"),
    ],
)
def test_setup_without_a_python_that_will_do_says_what_to_install(tmp_path: Path, works: str, sentence: str) -> None:
    for name in (".ci", "containers", "tests"):
        (tmp_path / name).mkdir()
    for name in ("Makefile", ".ci/setup.sh", "containers/uv.txt", "tests/requirements.txt"):
        shutil.copy2(ROOT / name, tmp_path / name)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    answer = "exit 1" if works == "no" else 'case "$*" in *ensurepip*) exit 1;; esac; exit 0'
    for name in ("python3.11", "python3"):
        (bin_folder / name).write_text(f"#!/bin/sh\n{answer}\n")
        (bin_folder / name).chmod(0o755)
    made = engine.make("setup", root=tmp_path, variables={"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"})
    assert made.code != 0
    assert sentence in made.output
    assert not (tmp_path / ".venv").exists()
