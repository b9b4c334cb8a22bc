import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from components.aws.ranges import from_sagemaker, to_sagemaker
from components.config import read_settings
from components.environment import Environment
from components.train.settings import TrainSettings
from components.tune.space import Categorical, Continuous, Integer, Space, Value, check
from serving.errors import ConfigError
from tests.support.spaces import BASE, random_space

SPACE: Space = {
    "lr": Continuous(1e-05, 0.3, "log"),
    "dropout": Continuous(0.0, 0.5),
    "epochs": Integer(2, 5),
    "patience": Integer(1, 9, "log"),
    "batch_size": Categorical((4, 16, 32)),
    "optimizer": Categorical(("adam", "sgd")),
    "weight_decay": Categorical((0.0, 0.0001)),
}
SDK: Final = """
import json
from sagemaker.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter
numbers = {
    "lr": ContinuousParameter(1e-05, 0.3, "Logarithmic"),
    "dropout": ContinuousParameter(0.0, 0.5, "Linear"),
}
whole = {"epochs": IntegerParameter(2, 5, "Linear"), "patience": IntegerParameter(1, 9, "Logarithmic")}
categories = {
    "batch-size": CategoricalParameter([4, 16, 32]),
    "optimizer": CategoricalParameter(["adam", "sgd"]),
    "weight-decay": CategoricalParameter([0.0, 0.0001]),
}
def ranges(method):
    return {
        "IntegerParameterRanges": [held.as_tuning_range(name) for name, held in whole.items()],
        "ContinuousParameterRanges": [held.as_tuning_range(name) for name, held in numbers.items()],
        "CategoricalParameterRanges": [getattr(held, method)(name) for name, held in categories.items()],
    }
auto = {"ContinuousParameterRanges": [ContinuousParameter(0.001, 0.1).as_tuning_range("lr")]}
print("RANGES", json.dumps({"plain": ranges("as_tuning_range"), "quoted": ranges("as_json_range"), "auto": auto}))
"""


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Ranges that AWS's own SDK makes; in a process of its own, since it warns, logs and looks for a home folder."""
    environ = os.environ | {"HOME": str(tmp_path_factory.mktemp("home")), "SAGEMAKER_SUPPRESS_V2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SDK], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.partition("RANGES ")[2])
    return found


@cache
def service() -> ServiceModel:
    """AWS's own description of its API, of several megabytes."""
    return ServiceModel(Loader().load_service_model("sagemaker", "service-2"))


def complaints(ranges: Any) -> str:
    """What AWS's client would say of them before it sends anything."""
    return str(ParamValidator().validate(ranges, service().shape_for("ParameterRanges")).generate_report())


def test_ranges_are_what_the_sdk_makes_of_the_same_space(sdk: dict[str, Any]) -> None:
    assert to_sagemaker(SPACE) == sdk["plain"]


def test_ranges_of_the_sdk_are_read_back_also_when_it_quoted_the_values(sdk: dict[str, Any]) -> None:
    quoted = sdk["quoted"]["CategoricalParameterRanges"][0]
    assert quoted == {"Name": "batch-size", "Values": ['"4"', '"16"', '"32"']}
    for held in (sdk["plain"], sdk["quoted"]):
        found = from_sagemaker(held)
        assert found == SPACE
        assert [type(value) for value in values(found, "batch_size")] == [int, int, int]
        assert [type(value) for value in values(found, "weight_decay")] == [float, float]
    twice = json.loads(json.dumps(sdk["quoted"]))
    for one in twice["CategoricalParameterRanges"]:
        one["Values"] = [json.dumps(value) for value in one["Values"]]
    assert from_sagemaker(twice) == SPACE


def test_the_scale_that_the_sdk_leaves_to_sagemaker_is_one_of_ours(sdk: dict[str, Any]) -> None:
    assert sdk["auto"]["ContinuousParameterRanges"][0]["ScalingType"] == "Auto"
    assert from_sagemaker(sdk["auto"]) == {"lr": Continuous(0.001, 0.1, "log")}


def values(space: Space, name: str) -> tuple[Value, ...]:
    tried = space[name]
    assert isinstance(tried, Categorical)
    return tried.values


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_there_and_back_and_the_api_takes_it(seed: int) -> None:
    random = Random(seed)
    for _ in range(10):
        space = random_space(random)
        ranges = to_sagemaker(space)
        assert from_sagemaker(json.loads(json.dumps(ranges))) == space
        assert complaints(ranges) == ""


def test_the_api_would_complain() -> None:
    assert "Invalid type for parameter IntegerParameterRanges[0].MinValue" in complaints(
        {"IntegerParameterRanges": [{"Name": "epochs", "MinValue": 1, "MaxValue": "2"}]}
    )


@pytest.mark.parametrize("seed", range(5))
def test_train_reads_a_trial_of_a_tuning_job_as_the_space_has_it(tmp_path: Path, seed: int) -> None:
    """Categories come quoted or not, all values as texts, and the job's own keys come along."""
    space = random_space(Random(seed))
    ranges = to_sagemaker(space)
    job = {one["Name"]: one["MinValue"] for kind in ranges for one in ranges[kind] if "MinValue" in one}
    job |= {one["Name"]: json.dumps(one["Values"][-1]) for one in ranges["CategoricalParameterRanges"]}
    path = tmp_path / "hyperparameters.json"
    path.write_text(json.dumps(job | {"head": "mlp", "_tuning_objective_metric": "average test loss"}))
    place = Environment(hyperparameters=path)
    found = read_settings(TrainSettings, [], place, prog="train", description="", environ={})
    for name, tried in space.items():
        assert getattr(found, name) == (tried.values[-1] if isinstance(tried, Categorical) else tried.min)


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [
        ("0.001", "0.1", "log"),
        ("0.003", "0.3", "log"),
        ("0.001", "0.099", "linear"),
        ("0", "100", "linear"),
        ("-1", "100", "linear"),
    ],
)
def test_auto_is_a_log_scale_for_ranges_over_two_powers_of_ten(low: str, high: str, scale: str) -> None:
    held = {"Name": "lr", "MinValue": low, "MaxValue": high}
    for one in (held, held | {"ScalingType": "Auto"}):
        (found,) = from_sagemaker({"ContinuousParameterRanges": [one]}).values()
        assert isinstance(found, Continuous)
        assert found.scale == scale


def test_a_space_read_back_is_checked_as_any_other() -> None:
    held = {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.0", "MaxValue": "1"}]}
    with pytest.raises(ConfigError, match=r"ParameterRanges: min of 'lr' got \"0.0\", expected a number above 0"):
        check(from_sagemaker(held), BASE, "ParameterRanges")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({f"setting_{place}": Integer(1, 2) for place in range(31)}, "has 31 settings, SageMaker searches at most 30"),
        ({"epochs": Categorical(tuple(range(1, 32)))}, "epochs has 31 values, SageMaker takes 1 to 30"),
        ({"epochs": Categorical(())}, "epochs has 0 values, SageMaker takes 1 to 30"),
        ({"weights": Categorical(("x" * 257,))}, "SageMaker takes one line of at most 256 characters"),
        ({"weights": Categorical(("a\nb",))}, "SageMaker takes one line of at most 256 characters"),
        ({"weights": Categorical(('"a"',))}, "expected one without quotes around it"),
    ],
)
def test_what_a_tuning_job_cannot_hold_is_refused(space: Space, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_sagemaker(space)


def one(**held: Any) -> dict[str, Any]:
    return {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.1", "MaxValue": "0.2"} | held]}


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (one(ScalingType="ReverseLogarithmic"), "lr has ScalingType ReverseLogarithmic, which no other search has"),
        (one(ScalingType="Log"), "lr has ScalingType 'Log', expected one of Auto, Linear, Logarithmic"),
        (one(ScalingType=None), "lr has ScalingType null, expected one of"),
        (
            one(MinimumValue="1"),
            "lr has 'MinimumValue', expected Name, MinValue, MaxValue, ScalingType, did you",
        ),
        (one(MinValue="low"), "lr has the min 'low', expected a number"),
        (one(Name=None), "a range without Name in ContinuousParameterRanges"),
        (one(Name="learnrate"), "'learnrate' is not a setting of train, did you mean learning-rate?"),
        ({"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "1"}]}, "lr has no MaxValue, expected"),
        ({"ContinuousParameterRanges": ["lr"]}, "a range without Name"),
        ({"ContinuousParameterRanges": 3}, "have 3 for ContinuousParameterRanges, expected a list"),
        (
            {"AutoParameters": [{"Name": "lr", "ValueHint": "0.1"}]},
            "have 'AutoParameters', expected IntegerParameterRa",
        ),
        ({"ContinuousRanges": [{}]}, "did you mean ContinuousParameterRanges?"),
        ([], "hold a list, expected an object with IntegerParameterRanges"),
        ({}, "is empty"),
        (
            one() | {"CategoricalParameterRanges": [{"Name": "lr", "Values": ["0.1"]}]},
            "have two ranges for lr: give one of them",
        ),
        (
            one() | {"CategoricalParameterRanges": [{"Name": "learning_rate", "Values": ["0.1"]}]},
            "lr and learning_rate are the same setting",
        ),
    ],
)
def test_what_is_no_search_space_is_one_clear_sentence(ranges: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_sagemaker(ranges)
    assert message in str(error.value)
    assert str(error.value).startswith("ParameterRanges")
    assert "\n" not in str(error.value)


def test_the_launchers_image_has_all_that_it_takes() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'optuna', 'boto3', 'sagemaker', 'kubernetes'): sys.modules[name] = None\n"
        "import components.aws.ranges, components.kubeflow.katib"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
