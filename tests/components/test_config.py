import json
import pprint
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.config import MAX_HYPERPARAMETERS_BYTES, read_settings, unquote
from components.environment import Environment
from components.train.settings import TrainSettings
from serving.errors import ConfigError


def read(*arguments: str, hyperparameters: Path | None = None, environ: dict[str, str] | None = None) -> TrainSettings:
    place = Environment(hyperparameters=hyperparameters)
    return read_settings(TrainSettings, arguments, place, prog="train", description="", environ=environ or {})


def write(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "hyperparameters.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("4", "4"),
        ('"4"', "4"),
        ('"\\"4\\""', "4"),
        ("resnet50", "resnet50"),
        ('"resnet50"', "resnet50"),
        ('"a \\"quoted\\" word"', 'a "quoted" word'),
        ('"', '"'),
        ("", ""),
        ('"torn', '"torn'),
        (4, "4"),
        (0.001, "0.001"),
        (True, "true"),
    ],
)
def test_a_hyperparameter_is_what_the_user_meant_however_often_it_was_quoted(given: Any, meant: str) -> None:
    assert unquote(given) == meant


@pytest.mark.parametrize("name", ["lr", "learning-rate", "learning_rate"])
def test_the_learning_rate_goes_by_the_names_people_use(tmp_path: Path, name: str) -> None:
    assert read(hyperparameters=write(tmp_path, {name: '"0.25"'})).lr == 0.25
    assert read("--" + name.replace("_", "-"), "0.25").lr == 0.25


@pytest.mark.parametrize("name", ["batch-size", "batch_size"])
def test_kebab_and_snake_case_are_the_same_name(tmp_path: Path, name: str) -> None:
    assert read(hyperparameters=write(tmp_path, {name: '"\\"16\\""'})).batch_size == 16


def test_a_flag_beats_a_hyperparameter_beats_the_environment_beats_the_default(tmp_path: Path) -> None:
    hyperparameters = write(tmp_path, {"epochs": "3"})
    environ = {"KENNEL_EPOCHS": "2"}
    assert read().epochs == TrainSettings.model_fields["epochs"].default
    assert read(environ=environ).epochs == 2
    assert read(environ=environ, hyperparameters=hyperparameters).epochs == 3
    assert read("--epochs", "4", environ=environ, hyperparameters=hyperparameters).epochs == 4


def test_a_file_of_hyperparameters_given_by_flag_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, {"lr": 0.5, "epochs": "7"})
    settings = read("--hyperparameters", str(path), "--epochs", "8")
    assert (settings.lr, settings.epochs) == (0.5, 8)


def test_the_platforms_own_keys_are_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, {"_tuning_objective_metric": '"valid_loss"', "sagemaker_program": '"t.py"', "epochs": "3"})
    assert read(hyperparameters=path).epochs == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": "3"}, "hyperparameter 'epoch' is unknown, did you mean epochs?"),
        ({"lr": "fast"}, "hyperparameter 'lr' got \"fast\", expected a number above 0"),
        ({"learning-rate": "-1"}, "hyperparameter 'learning-rate' got \"-1\", expected a number above 0"),
        ({"epochs": "2.5"}, "hyperparameter 'epochs' got \"2.5\", expected a whole number at least 1"),
        ({"freeze": "all"}, "hyperparameter 'freeze' got \"all\", expected one of backbone, last-stage, none"),
        ({"lr": "nan"}, "hyperparameter 'lr' got \"nan\", expected a number"),
        ({"lr": "0.1", "learning_rate": "0.2"}, "are the same setting: give one of them"),
    ],
)
def test_a_wrong_hyperparameter_is_one_clear_sentence(tmp_path: Path, values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(hyperparameters=write(tmp_path, values))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "--epoch is not a flag of train, did you mean --epochs?"),
        (["--lr", "fast"], '--lr got "fast", expected a number above 0'),
        (["--lr"], "--lr"),
        (["--data", "a", "--train", "b"], "exclude each other"),
        (["--valid", "b"], "without --train"),
        (["--hyperparameters", "absent.json"], "absent.json"),
    ],
)
def test_a_wrong_flag_is_one_clear_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


BEST = {
    "_tuning_objective_metric": '"average test loss"',
    "batch_size": '"32"',
    "lr": "0.05",
    "model": '"\\"resnet50\\""',
    "sagemaker_container_log_level": "20",
    "sagemaker_job_name": '"the dogs\' job"',
    "sagemaker_program": '"hpo.py"',
    "sagemaker_submit_directory": '"s3://bucket/job/source/sourcedir.tar.gz"',
}
"""What a tuning job's best training job has, as its SDK tells it."""


@pytest.mark.parametrize("written", [json.dumps, repr, pprint.pformat, lambda values: f"\n{values!r}\n"])
def test_the_best_jobs_hyperparameters_are_read_as_they_are_printed(
    tmp_path: Path, written: Callable[[dict[str, str]], str]
) -> None:
    path = tmp_path / "best.txt"
    path.write_text(written(BEST))
    for found in (read("--hyperparameters", str(path)), read(hyperparameters=path)):
        assert (found.batch_size, found.lr, found.arch) == (32, 0.05, "resnet50")
        assert found == read("--batch-size", "32", "--lr", "0.05", "--arch", "resnet50").model_copy(
            update={"hyperparameters": found.hyperparameters}
        )


def test_a_printed_dictionary_of_other_literals_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "best.txt"
    path.write_text("{'lr': 5e-2, \"epochs\": 3, 'patience': None, 'tensorboard': True, 'seed': +7,}")
    found = read(hyperparameters=path)
    assert (found.lr, found.epochs, found.patience, found.tensorboard, found.seed) == (0.05, 3, None, True, 7)


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", "", "{,}", "{'lr': '0.1'", "{'lr': nan}", "{'lr': 1.2.3}", "{1: '2'}", "{'a' 'b': '1'}"),
        *("{'lr': ['0.1']}", "{'lr': {'x': '1'}}", "{'lr': b'1'}", "{'lr': f'1'}", "{'lr': 0.1 * 2}", "{'lr', '0.1'}"),
        *("['lr']", "'lr'", "{'lr': '\\N{no such letter}'}", "{'lr': " + "1" * 5000 + "}"),
        *("[" * 100_000, "{'lr':" * 10_000, "{'lr': " + "-" * 100_000 + "1}", "{'lr': " + "(" * 100_000),
        *("{'lr': '" + "\\'" * 100_000, "{" + "'lr': 1, " * 50_000, "{'lr': '0.1'}; import os"),
        " " * MAX_HYPERPARAMETERS_BYTES + "{}",
    ],
    ids=lambda content: content[:20],
)
def test_a_file_of_hyperparameters_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "hyperparameters.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"hyperparameters\.json") as error:
        read(hyperparameters=path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_nothing_in_a_printed_dictionary_is_carried_out(tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / "best.txt"
    path.write_text(f"{{'lr': open({str(proof)!r}, 'w').write('0.1')}}")
    with pytest.raises(ConfigError, match=r"best\.txt"):
        read(hyperparameters=path)
    assert not proof.exists()


def test_help_names_unit_default_and_range_and_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from components.train.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, "help imports torch"
    text = " ".join(done.stdout.split())
    assert "--image-size N side of the square that the network sees (a whole number at least 8" in text
    assert "in px; default 224)" in text


def test_the_entrypoint_knows_its_stages() -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "components", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "train" in run("--help").stdout
    wrong = run("trian")
    assert wrong.returncode == 1
    assert wrong.stderr == 'error: got "trian", expected a stage: tune, train; --help says what they do\n'
    assert run().returncode == 1
