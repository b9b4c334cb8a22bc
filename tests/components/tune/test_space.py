import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from components import presets
from components.aws.ranges import from_sagemaker, to_sagemaker
from components.config import read_settings
from components.environment import Environment
from components.kubeflow.katib import from_katib, to_katib
from components.train.settings import TrainSettings
from components.tune.space import (
    MAX_FILE_BYTES,
    MAX_VALUES,
    Categorical,
    Continuous,
    Integer,
    Range,
    Space,
    check,
    describe,
    parse,
    read,
    size,
)
from serving.errors import ConfigError
from tests.support.spaces import BASE, as_content, damaged, random_space

LR = Continuous(0.001, 0.3, "log")
TEXT = """
lr: {type: continuous, min: 1e-3, max: 0.3, scale: log}
batch-size: {type: categorical, values: [16, "32", '"64"']}
epochs: {type: integer, min: 2, max: 5}
freeze:
  type: categorical
  values: [backbone, none]
"""
SPACE: Space = {
    "lr": LR,
    "batch_size": Categorical((16, 32, 64)),
    "epochs": Integer(2, 5),
    "freeze": Categorical(("backbone", "none")),
}


def written(folder: Path, text: str, name: str = "space.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(content: Any) -> str:
    """The sentence with which a file of this content is refused."""
    with pytest.raises(ConfigError) as error:
        parse(content, "search space s.yaml")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("search space s.yaml")
    return message.removeprefix("search space s.yaml").removeprefix(": ")


def unchecked(space: Space, base: TrainSettings = BASE) -> str:
    """The sentence with which a space is refused."""
    with pytest.raises(ConfigError) as error:
        check(space, base, "search space s.yaml")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("search space s.yaml")
    return message.removeprefix("search space s.yaml").removeprefix(": ")


def test_a_file_is_read_in_its_order_with_values_of_the_settings_types(tmp_path: Path) -> None:
    space = read(written(tmp_path, TEXT))
    assert list(space.items()) == list(SPACE.items())
    assert [type(value) for tried in space.values() if isinstance(tried, Categorical) for value in tried.values] == [
        *(int, int, int),
        *(str, str),
    ]
    check(space, BASE)


def test_json_holds_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(yaml.safe_load(TEXT), indent="\t"), "space.json")
    assert read(path) == SPACE


@pytest.mark.parametrize("name", ["learning-rate", "learning_rate", "lr"])
def test_a_setting_goes_by_all_of_its_names(name: str) -> None:
    assert parse({name: {"type": "continuous", "min": "0.001", "max": '"0.3"', "scale": "log"}}, "s") == {"lr": LR}


def test_whole_numbers_become_those_of_a_setting_that_takes_any(tmp_path: Path) -> None:
    space = read(written(tmp_path, "dropout: {type: categorical, values: [0, 0.5]}"))
    assert [type(value) for tried in space.values() if isinstance(tried, Categorical) for value in tried.values] == [
        float,
        float,
    ]


@pytest.mark.parametrize("seed", range(20))
def test_what_a_person_writes_is_what_is_read(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    for _ in range(5):
        space = random_space(random)
        check(space, BASE)
        content = as_content(space, random)
        found = read(written(tmp_path, yaml.safe_dump(content, sort_keys=False)))
        assert list(found.items()) == list(space.items())
        assert list(read(written(tmp_path, json.dumps(content), "space.json")).items()) == list(space.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "holds 3, expected a range for each setting, such as lr: {type: continuous"),
        (["lr"], "holds ['lr'], expected a range for each setting"),
        (None, "holds null, expected a range for each setting"),
        ({}, "is empty, expected a range for each setting"),
        ({"batchsize": {}}, "'batchsize' is not a setting of train, did you mean batch-size?"),
        ({"learn_rate": {}}, "'learn_rate' is not a setting of train, did you mean learning-rate?"),
        ({3: {}}, "3 is not a setting of train"),
        ({"lr": [0.1, 0.2]}, "lr holds [0.1, 0.2], expected a range, such as lr: {type: continuous"),
        ({"lr": {"min": 1, "max": 2}}, "lr has no type, expected one of continuous, integer, categorical"),
        (
            {"lr": {"type": "contnuous"}},
            "lr has the type 'contnuous', expected one of continuous, integer, categorical",
        ),
        ({"lr": {"type": "contnuous"}}, ", did you mean continuous?"),
        ({"lr": {"type": ["integer"]}}, "lr has the type ['integer'], expected one of"),
        (
            {"lr": {"type": "continuous", "mim": 1}},
            "lr has 'mim', expected of a range of type continuous are type, min,",
        ),
        ({"lr": {"type": "continuous", "mim": 1}}, ", did you mean min?"),
        (
            {"lr": {"type": "categorical", "values": [1], "min": 1}},
            "lr has 'min', expected of a range of type categori",
        ),
        ({"lr": {"type": "continuous", "min": 1}}, "lr has no max, expected of a range of type continuous"),
        ({"lr": {"type": "categorical"}}, "lr has no values, expected of a range of type categorical are type, values"),
        ({"lr": {"type": "categorical", "values": "a"}}, "lr has the values 'a', expected a list such as [16, 32, 64]"),
        ({"lr": {"type": "categorical", "values": 3}}, "lr has the values 3, expected a list"),
        ({"lr": {"type": "continuous", "min": "low", "max": 1}}, "lr has the min 'low', expected a number"),
        ({"lr": {"type": "continuous", "min": 1, "max": True}}, "lr has the max true, expected a number"),
        ({"lr": {"type": "continuous", "min": 1, "max": 10**400}}, "expected a number"),
        (
            {"lr": {"type": "continuous", "min": 1, "max": 2, "scale": "lgo"}},
            "lr has the scale 'lgo', expected one of li",
        ),
        ({"lr": {"type": "continuous", "min": 1, "max": 2, "scale": "lgo"}}, ", did you mean log?"),
        ({"epochs": {"type": "integer", "min": 1.5, "max": 2}}, "epochs has the min 1.5, expected a whole number"),
        ({"epochs": {"type": "integer", "min": 1, "max": None}}, "epochs has the max null, expected a whole number"),
        ({"epochs": {"type": "integer", "min": 1, "max": 2**53 + 2}}, "expected a whole number"),
        (
            {"batch-size": {"type": "categorical", "values": [16, "many"]}},
            "batch-size has the value 'many', expected a whole number at least 1 and at most 65536",
        ),
        ({"batch-size": {"type": "categorical", "values": [True]}}, "batch-size has the value true, expected a whole"),
        (
            {"hidden": {"type": "categorical", "values": [None, 64]}},
            "hidden has the value null, expected a whole number above 0; without a range it is as the other flags say",
        ),
        (
            {"augment": {"type": "categorical", "values": [False]}},
            "augment has the value false, expected one of auto, none, basic, randaugment; a text has quotes around it",
        ),
        ({"arch": {"type": "categorical", "values": [18]}}, "arch has the value 18, expected a text"),
        (
            {
                "batch-size": {"type": "integer", "min": 1, "max": 2},
                "batch_size": {"type": "categorical", "values": [3]},
            },
            "batch-size and batch_size are the same setting: give one of them",
        ),
        (
            {"learning_rate": {"type": "continuous", "min": 1, "max": 2}, "lr": {}},
            "learning_rate and lr are the same setting: give one of them",
        ),
    ],
)
def test_what_is_no_search_space_is_one_clear_sentence(content: Any, message: str) -> None:
    assert message in refusal(content)


def test_a_message_stays_short_however_much_was_found() -> None:
    assert len(refusal({"lr": {"type": "x" * 10_000, "y": list(range(10_000))}})) < 300
    assert len(refusal(list(range(10_000)))) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: [", "space.yaml is not readable YAML: "),
        ("lr: {type: integer, min: 1, max: 2}\nlr: {type: integer, min: 3, max: 4}", "lr is there twice in line 2"),
        ("lr: {type: continuous, min: 1, min: 2, max: 3}", "min is there twice in line 1"),
        ("a: &a {x: 1}\nlr: {<<: *a}", "space.yaml is not readable YAML: "),
        (
            "lr: !!python/object/apply:os.getcwd []",
            "space.yaml is not readable YAML: could not determine a constructor",
        ),
        (
            "a: 1\n--- \nb: 2",
            "space.yaml is not readable YAML: expected a single document in the stream but found another",
        ),
        ("[" * 5000, "space.yaml is nested too deeply, expected a few lines such as lr: {type: continuous"),
        ("\x00", "space.yaml is not readable: "),
        ("", "space.yaml holds null, expected a range for each setting"),
        ("#" * (MAX_FILE_BYTES + 1), f"space.yaml is larger than {MAX_FILE_BYTES} bytes"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(written(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "space.json is not readable: "),
        ("[" * 100_000, "space.json is nested too deeply"),
        ('{"lr": {}, "lr": {}}', "space.json: lr is there twice"),
    ],
)
def test_so_is_a_damaged_file_of_json(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(written(tmp_path, text, "space.json"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search space .*absent\.yaml cannot be read: No such file"):
        read(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read(tmp_path)
    (tmp_path / "space.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match=r"space\.yaml is not readable: "):
        read(tmp_path / "space.yaml")


@pytest.mark.parametrize(
    ("name", "tried", "message"),
    [
        ("learnrate", LR, "learnrate is not a setting of train"),
        ("batchsize", LR, "batchsize is not a setting of train, did you mean batch-size?"),
        (
            "data",
            Categorical(("a",)),
            "data is no hyperparameter: it does not change what is learnt; give all trials the",
        ),
        ("micro_batch", Integer(1, 2), "same --micro-batch"),
        (
            "epochs",
            Continuous(1, 3),
            "epochs has a range of type continuous, expected type integer: it is a whole number",
        ),
        (
            "freeze",
            Continuous(1, 3),
            "freeze has a range of type continuous, expected type categorical: it is one of ba",
        ),
        ("arch", Integer(18, 50), "arch has a range of type integer, expected type categorical: it is a text"),
        ("lr", Continuous(0.0, 0.1), "min of 'lr' got \"0.0\", expected a number above 0 and at most 1000"),
        ("lr", Continuous(0.1, 2000.0), "max of 'lr' got \"2000.0\", expected a number above 0 and at most 1000"),
        ("dropout", Continuous(0.0, 1.0), "max of 'dropout' got \"1.0\", expected a number at least 0 and below 1"),
        ("epochs", Integer(0, 3), "min of 'epochs' got \"0\", expected a whole number at least 1 and at most 100000"),
        ("batch_size", Categorical((32, 0)), "a value of 'batch-size' got \"0\", expected a whole number at least 1"),
        (
            "freeze",
            Categorical(("all",)),
            "a value of 'freeze' got \"all\", expected one of backbone, last-stage, none",
        ),
        ("lr", Continuous(0.2, 0.1), "lr has min 0.2 and max 0.1, expected a min below the max"),
        (
            "epochs",
            Integer(3, 3),
            "epochs has min and max 3, which leaves nothing to search: leave it out and give all",
        ),
        ("epochs", Integer(3, 3), "give all trials --epochs 3"),
        ("lr", Continuous(float("nan"), 0.1), "lr has the range nan to 0.1, expected a number above 0"),
        ("lr", Continuous(0.1, float("inf")), "lr has the range 0.1 to inf, expected a number above 0"),
        (
            "dropout",
            Continuous(0.0, 0.1, "log"),
            "dropout has a log scale and min 0.0, expected a min above 0, or scale: l",
        ),
        ("seed", Integer(0, 9, "log"), "seed has a log scale and min 0, expected a min above 0"),
        ("lr", Continuous(-1.0, 0.1, "log"), "lr has a log scale and min -1.0, expected a min above 0"),
        ("lr", Categorical(()), f"lr has 0 values, expected 1 to {MAX_VALUES}"),
        ("epochs", Categorical(tuple(range(1, 32))), f"epochs has 31 values, expected 1 to {MAX_VALUES}"),
        ("epochs", Categorical((3, 4, 3)), "epochs has the value 3 twice"),
        ("dropout", Categorical((0, 0.0)), "dropout has the value 0 twice"),
        ("lr", Categorical((float("nan"),)), "a value of 'lr' got \"nan\", expected a number above 0"),
        ("epochs", Categorical(("3",)), "epochs has the value '3', expected a whole number at least 1"),
        ("epochs", Categorical((True,)), "epochs has the value true, expected a whole number at least 1"),
        ("arch", Categorical((18,)), "arch has the value 18, expected a text"),
    ],
)
def test_a_range_that_train_would_not_take_is_refused_before_anything_starts(
    name: str, tried: Range, message: str
) -> None:
    assert message in unchecked({"optimizer": Categorical(("adam", "sgd")), name: tried})


def test_an_empty_space_is_refused() -> None:
    assert "is empty" in unchecked({})


@pytest.mark.parametrize(
    "tried",
    [Integer(1, 5), Integer(1, 5, "log"), Categorical((5,)), Categorical(tuple(range(1, 31)))],
)
def test_both_ends_and_a_single_category_are_fine(tried: Range) -> None:
    check({"epochs": tried}, TrainSettings())


@pytest.mark.parametrize(
    ("space", "base"),
    [
        ({"hidden": Integer(1, 9)}, TrainSettings()),
        ({"dropout": Continuous(0, 0.5)}, TrainSettings()),
        ({"head": Categorical(("mlp", "linear"))}, TrainSettings(head="mlp", hidden=9)),
        ({"head": Categorical(("linear",)), "dropout": Categorical((0.0, 0.5))}, TrainSettings(head="mlp")),
    ],
)
def test_trials_that_would_give_a_linear_head_what_is_the_mlps_are_refused(space: Space, base: TrainSettings) -> None:
    assert "would be tried with a linear head, expected the mlp: give all trials --head mlp" in unchecked(space, base)


@pytest.mark.parametrize(
    ("space", "base"),
    [
        ({"hidden": Integer(1, 9)}, TrainSettings(head="mlp")),
        ({"dropout": Categorical((0.0,))}, TrainSettings()),
        ({"head": Categorical(("mlp",)), "dropout": Continuous(0, 0.5)}, TrainSettings()),
        ({"head": Categorical(("mlp", "linear"))}, TrainSettings()),
    ],
)
def test_with_the_mlp_they_are_fine(space: Space, base: TrainSettings) -> None:
    check(space, base)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_has_a_space_that_fits_its_settings(name: str) -> None:
    base = read_settings(TrainSettings, ["--preset", name], Environment(), prog="train", description="", environ={})
    space = parse(presets.read(name).space, f"preset {name}")
    check(space, base)
    assert {"lr", "batch_size"} <= set(space)
    assert base.lr > 0


def test_a_space_is_described_a_line_a_setting() -> None:
    assert describe({**SPACE, "patience": Integer(1, 8, "log"), "ema": Continuous(0.0, 0.5)}).splitlines() == [
        "lr: 0.001 to 0.3, log scale",
        "batch-size: one of 16, 32, 64",
        "epochs: 2 to 5, whole numbers",
        "freeze: one of backbone, none",
        "patience: 1 to 8, whole numbers, log scale",
        "ema: 0.0 to 0.5",
    ]


def test_the_size_of_a_space_is_how_many_trials_differ() -> None:
    finite = {name: tried for name, tried in SPACE.items() if name != "lr"}
    assert size(finite) == 3 * 4 * 2
    assert size(SPACE) is None


def test_a_space_is_read_without_torch_numpy_and_optuna(tmp_path: Path) -> None:
    """The image of the launchers has none of them."""
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'optuna'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "import components.tune.space as s\n"
        "print(s.describe(s.read(Path(sys.argv[1]))))"
    )
    path = written(tmp_path, TEXT)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == describe(SPACE) + "\n"


@pytest.mark.parametrize("seed", range(10))
def test_whatever_a_file_or_a_platform_holds_is_read_or_refused_in_a_sentence(seed: int) -> None:
    random = Random(seed)
    refusals: list[str] = []
    for _ in range(20):
        space = dict(list(random_space(random).items())[:3])
        for reader, content in (
            (lambda content: parse(content, "s"), as_content(space, random)),
            (from_sagemaker, to_sagemaker(space)),
            (from_katib, to_katib(space)),
        ):
            try:
                check(reader(damaged(content, random)), BASE)
            except ConfigError as error:
                refusals.append(str(error))
    assert len(refusals) > 30
    assert [message for message in refusals if "\n" in message or len(message) > 700] == []
