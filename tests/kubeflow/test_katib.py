"""Facts of Katib itself are those of its v1beta1 types and of its webhook, repeated here by hand."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from components.config import read_settings
from components.environment import Environment
from components.kubeflow.katib import FILTER, METRICS, Search, experiment, from_katib, to_katib
from components.train.metrics import METRIC_PATTERNS, EpochResult, final_line
from components.train.settings import TrainSettings
from components.tune.objective import DIRECTIONS, Objective, read_objectives
from components.tune.space import Categorical, Continuous, Integer, Range, Space
from serving.errors import ConfigError
from tests.support.spaces import random_space

SPACE: Final[Space] = {
    "lr": Continuous(1e-05, 0.3, "log"),
    "weight_decay": Continuous(0.0, 0.5),
    "epochs": Integer(2, 5),
    "patience": Integer(1, 9, "log"),
    "batch_size": Categorical((16, 32)),
    "clip_norm": Categorical((0.5, 1.0)),
    "freeze": Categorical(("backbone", "none")),
}
SEARCH: Final = Search(
    image="registry.example/kennel-training:cuda",
    objective=Objective("valid_loss", "minimize"),
    claims={"/data": "dogs"},
)
DEFAULT_FILTER: Final = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)"
"""Katib's own."""


def made(space: Space, **changed: Any) -> dict[str, Any]:
    search = replace(SEARCH, settings={"data": "/data/dogs", "head": "mlp"})
    return experiment("dogs", space, replace(search, **changed))


def trial(manifest: dict[str, Any], assignments: dict[str, str]) -> dict[str, Any]:
    """The Job that Katib makes of its template, which it holds as JSON, and values by parameter."""
    template = manifest["spec"]["trialTemplate"]
    text = json.dumps(template["trialSpec"])
    for parameter in template["trialParameters"]:
        mark = f"${{trialParameters.{parameter['name']}}}"
        assert mark in text
        text = text.replace(mark, assignments[parameter["reference"]])
    assert "${trialParameters" not in text
    job: dict[str, Any] = json.loads(text)
    return job


def read_trial(job: dict[str, Any]) -> TrainSettings:
    """Settings as train reads them after Katib has put command and arguments into one line for a shell."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words = shlex.split(" ".join([*container["command"], *container["args"]]))
    assert words[:4] == ["python", "-m", "components", "train"]
    return read_settings(TrainSettings, words[4:], Environment(), prog="train", description="", environ={})


def test_ranges_become_parameters_with_texts_for_values() -> None:
    def parameter(name: str, kind: str, **feasible: Any) -> dict[str, Any]:
        return {"name": name, "parameterType": kind, "feasibleSpace": feasible}

    assert to_katib(SPACE) == [
        parameter("lr", "double", min="1e-05", max="0.3", distribution="logUniform"),
        parameter("weight-decay", "double", min="0.0", max="0.5", distribution="uniform"),
        parameter("epochs", "int", min="2", max="5", distribution="uniform"),
        parameter("patience", "int", min="1", max="9", distribution="logUniform"),
        parameter("batch-size", "discrete", list=["16", "32"]),
        parameter("clip-norm", "discrete", list=["0.5", "1.0"]),
        parameter("freeze", "categorical", list=["backbone", "none"]),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_there_and_back(seed: int) -> None:
    random = Random(seed)
    for _ in range(10):
        space = random_space(random)
        assert list(from_katib(json.loads(json.dumps(to_katib(space)))).items()) == list(space.items())


@pytest.mark.parametrize(
    ("feasible", "expected"),
    [
        ({"min": "0.01", "max": "0.1"}, Continuous(0.01, 0.1)),
        ({"min": "0.01", "max": "0.1", "distribution": "", "step": ""}, Continuous(0.01, 0.1)),
        ({"min": "0.01", "max": "0.1", "distribution": "logUniform"}, Continuous(0.01, 0.1, "log")),
    ],
)
def test_a_parameter_without_distribution_is_uniform(feasible: dict[str, str], expected: Range) -> None:
    assert from_katib([{"name": "lr", "parameterType": "double", "feasibleSpace": feasible}]) == {"lr": expected}


def test_a_step_of_one_is_what_whole_numbers_have() -> None:
    feasible = {"min": "2", "max": "5", "step": "1"}
    held = [{"name": "epochs", "parameterType": "int", "feasibleSpace": feasible}]
    assert from_katib(held) == {"epochs": Integer(2, 5)}


def double(**changed: Any) -> dict[str, Any]:
    return {"name": "lr", "parameterType": "double", "feasibleSpace": {"min": "0.1", "max": "0.2"} | changed}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "spec.parameters hold a dict, expected a list"),
        ("lr", "spec.parameters hold a str, expected a list"),
        ([], "is empty"),
        ([{"parameterType": "int"}], "have a parameter without name"),
        (["lr"], "have a parameter without name"),
        ([double(), double()], "have lr twice: give one of them"),
        ([double(distribution="normal")], "lr has the distribution 'normal', expected one of uniform, logUniform"),
        ([double(distribution="loguniform")], "did you mean logUniform?"),
        ([double(step="0.05")], "lr has the step '0.05', expected none, or type categorical"),
        ([double(list=["1"])], "lr has 'list', expected min, max, distribution, step"),
        ([double(min="low")], "lr has the min 'low', expected a number"),
        (
            [double() | {"parameterType": "float"}],
            "lr has parameterType 'float', expected one of double, int, discrete,",
        ),
        ([double() | {"parameterType": None}], "lr has parameterType null, expected one of"),
        ([double() | {"feasibleSpace": []}], "lr has a feasibleSpace that is a list, expected an object"),
        ([{"name": "lr", "parameterType": "double"}], "lr has no feasibleSpace, expected name, parameterType"),
        ([double() | {"feasibleSpace": {"min": "1"}}], "lr has no max, expected min, max"),
        ([double() | {"name": "learnrate"}], "'learnrate' is not a setting of train, did you mean learning-rate?"),
        (
            [{"name": "epochs", "parameterType": "int", "feasibleSpace": {"min": "1", "max": "9", "step": "2"}}],
            "epochs has the step '2', expected none, or type categorical",
        ),
    ],
)
def test_what_a_space_cannot_hold_is_one_clear_sentence(parameters: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_katib(parameters)
    assert message in str(error.value)
    assert str(error.value).startswith("spec.parameters")
    assert "\n" not in str(error.value)


def test_an_experiment_says_what_katib_is_to_do() -> None:
    manifest = made(SPACE, max_trials=8, parallel_trials=4, max_failed_trials=1, algorithm="random")
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubeflow.org/v1beta1", "Experiment")
    assert manifest["metadata"] == {"name": "dogs"}
    spec = manifest["spec"]
    assert spec["objective"]["type"] == "minimize"
    assert spec["objective"]["objectiveMetricName"] == "valid_loss"
    assert "valid_loss" not in spec["objective"]["additionalMetricNames"]
    assert {"name": "valid_loss", "value": "min"} in spec["objective"]["metricStrategies"]
    assert spec["algorithm"] == {"algorithmName": "random"}
    assert (spec["maxTrialCount"], spec["parallelTrialCount"], spec["maxFailedTrialCount"]) == (8, 4, 1)
    assert spec["parameters"] == to_katib(SPACE)
    assert spec["metricsCollectorSpec"]["collector"] == {"kind": "StdOut"}
    template = spec["trialTemplate"]
    references = [parameter["reference"] for parameter in template["trialParameters"]]
    assert references == [parameter["name"] for parameter in spec["parameters"]]
    job = template["trialSpec"]
    assert (job["apiVersion"], job["kind"], job["spec"]["backoffLimit"]) == ("batch/v1", "Job", 0)
    assert not job.get("metadata"), "Katib names trials itself"
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["name"] == template["primaryContainerName"]
    assert container["image"] == SEARCH.image
    assert json.loads(json.dumps(manifest)) == manifest


@pytest.mark.parametrize("seed", range(5))
def test_a_trial_is_what_was_assigned_with_what_all_share(seed: int) -> None:
    space = random_space(Random(seed))
    ends = {
        parameter["name"]: parameter["feasibleSpace"].get("max") or parameter["feasibleSpace"]["list"][-1]
        for parameter in to_katib(space)
    }
    found = read_trial(trial(made(space), ends))
    for name, tried in space.items():
        assert getattr(found, name) == (tried.values[-1] if isinstance(tried, Categorical) else tried.max)
    assert (found.data, found.head) == (Path("/data/dogs"), "mlp")
    assert found.model_dir == Path("/tmp/model")


def test_data_comes_from_claims_and_gpus_are_asked_for() -> None:
    pod = made(SPACE, gpus=2)["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    ((mount,), (volume,)) = container["volumeMounts"], pod["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/data", "readOnly": True}
    assert volume["persistentVolumeClaim"] == {"claimName": "dogs", "readOnly": True}
    bare = made(SPACE, claims={})["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    assert "volumes" not in bare
    assert "resources" not in bare["containers"][0]


def test_the_filter_finds_the_numbers_of_trains_own_lines() -> None:
    """`_` and letters are of one word in RE2 as they are here."""
    result = EpochResult(3, 0.5, 1.25e-4, 0.875, 0.0001, 0.01, 1.0, 2.0, 0.5)
    line = f"2026-11-02 10:00:00 INFO {result.line()}"
    assert re.findall(FILTER, line) == [("valid_loss", "0.000125"), ("valid_accuracy", "0.8750")]
    assert re.findall(FILTER, final_line(0.3, 0.92)) == [("test_loss", "0.300000"), ("test_accuracy", "0.9200")]
    assert re.findall(FILTER, "valid_loss=nan") == []
    found = made(SPACE)["spec"]["metricsCollectorSpec"]["source"]["filter"]["metricsFormat"]
    assert found == [FILTER]
    assert re.search(r".*\(.*\).*\(.*\).*", FILTER), "Katib's webhook asks for two groups"
    assert re.compile(FILTER).groups == 2
    assert not re.search(r"\(\?[=!<P]", FILTER), "RE2 knows no lookaround"


def test_it_finds_what_katibs_own_filter_and_sagemakers_patterns_find() -> None:
    lines = [EpochResult(1, 0.5, 0.25, 0.875, 0.2, 0.01, 1.0, 2.0, 0.5).line(), final_line(0.3, 0.92)]
    for line in lines:
        ours = re.findall(FILTER, line)
        assert ours == [(name, number) for name, number, *_ in re.findall(DEFAULT_FILTER, line) if name in METRICS]
        assert dict(ours) == {
            name: re.findall(METRIC_PATTERNS[name], line)[0]
            for name in METRICS
            if re.findall(METRIC_PATTERNS[name], line)
        }


@pytest.mark.parametrize("metric", ["valid_loss", "test_loss", "test_accuracy"])
def test_metrics_of_the_kept_weights_are_objectives(metric: str) -> None:
    (objective,) = read_objectives(metric)
    found = made(SPACE, objective=objective)["spec"]["objective"]
    assert found["type"] == DIRECTIONS[metric]
    assert sorted([found["objectiveMetricName"], *found["additionalMetricNames"]]) == sorted(METRICS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objective": Objective("valid_accuracy", "maximize")}, "does not say valid_accuracy of the weights that are"),
        ({"objective": Objective("latency_ms", "minimize")}, "expected one of valid_loss, test_loss, test_accuracy"),
        ({"algorithm": "tpee"}, 'algorithm "tpee" is none that runs whole trainings, expected one of tpe, random'),
        ({"algorithm": "tpee"}, ", did you mean tpe?"),
        ({"algorithm": "hyperband"}, 'algorithm "hyperband" is none that runs whole trainings'),
        ({"algorithm": "grid"}, "lr is continuous and a grid has steps, expected type categorical"),
        (
            {"algorithm": "sobol"},
            "lr has a log scale, which Katib's sobol takes for a linear one: expected one of tpe, ",
        ),
        ({"max_trials": 0}, "expected at least one trial"),
        (
            {"parallel_trials": 20},
            "12 trials with 20 at once and 3 that may fail: expected at least one trial, and not",
        ),
        ({"max_failed_trials": -1}, "-1 that may fail"),
        ({"max_failed_trials": 13}, "13 that may fail"),
        ({"settings": {"data": "/data/my dogs"}}, "--data got '/data/my dogs', which Katib would hand to a shell"),
        ({"settings": {"data": "$(reboot)"}}, "which Katib would hand to a shell: expected letters, digits and any of"),
        ({"settings": {"data": ""}}, "--data got ''"),
        ({"settings": {"lerning-rate": "1"}}, "'lerning-rate' is not a setting of train, did you mean learning_rate?"),
        ({"settings": {"help": "1"}}, "'help' is not a setting of train"),
        ({"settings": {"learning_rate": "0.1"}}, "lr is searched and given to all trials: leave one of them out"),
        ({"settings": {"val": "a", "valid": "b"}}, "valid is given to all trials twice: give it once"),
        ({"settings": {"views": "0"}}, '--views got "0", expected a whole number at least 1'),
        ({"settings": {"preset": "dogs"}}, 'preset "dogs" does not exist'),
        ({"settings": {"dropout": "0.5"}}, "dropout would be tried with a linear head, expected the mlp"),
    ],
)
def test_what_katib_would_refuse_or_do_otherwise_is_one_clear_sentence(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        made(SPACE, **changed)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_preset_is_what_trials_start_from() -> None:
    search = {"settings": {"preset": "dogs-densenet161"}}
    assert read_trial(trial(made({"dropout": Continuous(0.1, 0.5)}, **search), {"dropout": "0.25"})).dropout == 0.25


@pytest.mark.parametrize(
    ("space", "algorithm", "message"),
    [
        (
            {"lr": Continuous(1e-11, 0.1, "log")},
            "multivariate-tpe",
            "min 1e-11, Katib's multivariate-tpe begins at 1e-10",
        ),
        ({"lr": Continuous(0.1, 5000.0)}, "tpe", "max of 'lr' got \"5000.0\", expected a number above 0"),
        ({"weights": Categorical(("a b",))}, "tpe", "weights has the value 'a b', which Katib would hand to a shell"),
        ({"weights": Categorical(('a"',))}, "tpe", "which Katib would hand to a shell"),
        ({"weights": Categorical(("${trialSpec.Name}",))}, "tpe", "which Katib would hand to a shell"),
        ({}, "tpe", "search space is empty"),
    ],
)
def test_so_is_a_space_that_would_not_arrive_as_it_is(space: Space, algorithm: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        made(space, algorithm=algorithm)
    assert message in str(error.value)


def test_with_other_algorithms_the_same_ranges_are_fine() -> None:
    made({"lr": Continuous(1e-11, 0.1, "log")}, algorithm="tpe")
    made({"lr": Continuous(1e-10, 0.1, "log")}, algorithm="multivariate-tpe")
    made({"lr": Categorical((0.1, 0.2)), "epochs": Integer(1, 3)}, algorithm="grid")
    made({"lr": Continuous(0.1, 0.2)}, algorithm="sobol")


@pytest.mark.parametrize("name", ["Dogs", "9dogs", "dogs-", "dogs_1", "", "d" * 41, "dogs\n"])
def test_a_name_that_kubernetes_has_not_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected at most 40 lower case letters, digits and hyphens, a letter first"):
        experiment(name, {"lr": Continuous(0.1, 0.2)}, SEARCH)
