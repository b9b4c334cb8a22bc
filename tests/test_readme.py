"""What the README says is so."""

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel

from components.data.weights import published
from components.train.settings import TrainSettings
from components.tune import board
from components.tune.objective import read_objectives
from components.tune.settings import TuneSettings
from components.tune.space import check, read_text
from components.tune.trials import Trial
from serving.flags import SettingDoc, documentation, parse_arguments
from serving.predict import PredictSettings
from serving.readers import READERS
from serving.settings import ServerSettings
from serving.writers import WRITERS

ROOT = Path(__file__).parent.parent
NOW = datetime.now(UTC)
README = (ROOT / "README.md").read_text()


def row(entry: SettingDoc) -> str:
    default = "" if entry.default is None else f"`{entry.default}`"
    return f"| `{entry.flag}` | {default} | {entry.unit} | {entry.help} |"


def described(stage: str) -> list[SettingDoc]:
    """What the table of a stage holds; tune's leaves out what train's has."""
    models: dict[str, type[BaseModel]] = {"train": TrainSettings, "tune": TuneSettings, "serve": ServerSettings}
    known = set(TrainSettings.model_fields) if stage == "tune" else set()
    return [entry for entry in documentation(models[stage]) if entry.name not in known]


@pytest.mark.parametrize("stage", ["train", "tune", "serve"])
def test_the_table_of_settings_is_that_of_the_code(stage: str) -> None:
    written = re.search(rf"<!-- settings of {stage}:.*?-->\n(.*?)<!-- end of settings -->", README, re.DOTALL)
    assert written is not None
    expected = ["| flag | default | unit | what |", "| --- | --- | --- | --- |", *map(row, described(stage))]
    assert written.group(1).splitlines() == expected, "the table should be:\n" + "\n".join(expected)


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(
            r"\bmake ([a-z]+)\b(?=[`\s,;]| [A-Z])", "\n".join(re.findall(r"`[^`]+`|```.*?```", README, re.DOTALL))
        )
    )
    assert named
    assert named - targets == set()


def test_every_flag_it_names_exists() -> None:
    known = {entry.flag for model in (TuneSettings, ServerSettings, PredictSettings) for entry in documentation(model)}
    commands = "\n".join(line for line in README.splitlines() if "docker run" not in line and "curl" not in line)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", commands)) - {"--tmpfs", "--read-only", "--user"}
    assert named
    assert named - known == set()


def test_every_command_it_shows_is_understood() -> None:
    models: dict[str, type[BaseModel]] = {
        "components.train": TrainSettings,
        "components.tune": TuneSettings,
        "serving": ServerSettings,
        "serving.predict": PredictSettings,
    }
    shown = re.findall(r"\.venv/bin/python -m ([\w.]+)([^`\n#]*)", README)
    assert {module for module, _ in shown} == set(models)
    for module, rest in shown:
        words = shlex.split(rest)
        if module == "serving":
            assert words.pop(0) == "serve"
        parse_arguments(models[module], words, prog=module, description="")


def test_the_search_space_it_shows_can_be_searched() -> None:
    (shown,) = re.findall(r"```\n(lr: \{type.*?)```", README, re.DOTALL)
    check(read_text(shown, "README"), TrainSettings())


def test_the_line_of_a_trial_it_shows_is_one_that_the_search_writes() -> None:
    trial = Trial(3, "complete", {"lr": 0.00134, "batch_size": 32, "epochs": 5}, (0.12034,), (), NOW, NOW, 0.58)
    other = Trial(1, "complete", {}, (0.117204,), (), NOW, NOW, 2.81)
    assert board.line(3, [trial, other], read_objectives("valid_loss")) in README


def test_the_weights_it_names_are_those_that_are_fetched() -> None:
    named = re.findall(r"weights/([\w.-]+)", README)
    assert named
    assert set(named) == {published("resnet50").name}


def test_every_content_type_is_in_the_tables() -> None:
    rows = re.findall(r"^\| (`[a-z]+/[^|]+) \|", README, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert named == {*READERS, *(writer.content_type for writer in WRITERS)} - {"image/jpg"}


def test_every_file_and_folder_it_names_exists() -> None:
    made = ("demo/", "out/", "train/", "valid/", "test/")
    named = {name for name in re.findall(r"`([\w./-]+/[\w./-]*)`", README) if not name.startswith(("/", *made))}
    named -= {*READERS, *(writer.content_type for writer in WRITERS)}
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()
