"""What the README says is so."""

import re
import shlex
from pathlib import Path

import pytest
from pydantic import BaseModel

from components.data.weights import published
from components.train.settings import TrainSettings
from serving.flags import SettingDoc, documentation, parse_arguments
from serving.predict import PredictSettings
from serving.readers import READERS
from serving.settings import ServerSettings
from serving.writers import WRITERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def row(entry: SettingDoc) -> str:
    default = "" if entry.default is None else f"`{entry.default}`"
    return f"| `{entry.flag}` | {default} | {entry.unit} | {entry.help} |"


@pytest.mark.parametrize(("stage", "model"), [("train", TrainSettings), ("serve", ServerSettings)])
def test_the_table_of_settings_is_that_of_the_code(stage: str, model: type[BaseModel]) -> None:
    written = re.search(rf"<!-- settings of {stage}:.*?-->\n(.*?)<!-- end of settings -->", README, re.DOTALL)
    assert written is not None
    expected = ["| flag | default | unit | what |", "| --- | --- | --- | --- |", *map(row, documentation(model))]
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
    known = {entry.flag for model in (TrainSettings, ServerSettings, PredictSettings) for entry in documentation(model)}
    commands = "\n".join(line for line in README.splitlines() if "docker run" not in line and "curl" not in line)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", commands)) - {"--tmpfs", "--read-only", "--user"}
    assert named
    assert named - known == set()


def test_every_command_it_shows_is_understood() -> None:
    models: dict[str, type[BaseModel]] = {
        "components.train": TrainSettings,
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
