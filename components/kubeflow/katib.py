"""A search as Katib has it: an Experiment whose trials are Jobs of the training image; needs no client of Kubernetes.

Source: the v1beta1 Experiment of kubeflow/katib, 0.18 and later (earlier ones know no log scale): its types, what its
webhook accepts, and what its suggestion services do with a distribution.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from components.config import read_settings
from components.environment import Environment
from components.train.settings import TrainSettings
from components.tune.objective import Objective
from components.tune.space import (
    Categorical,
    Continuous,
    Integer,
    Range,
    Scale,
    Space,
    as_text,
    check,
    parse,
    setting_name,
    shortened,
)
from serving.errors import ConfigError
from serving.flags import documentation, flag_of, nearest

CONTAINER: Final = "train"
MODEL_DIR: Final = "/tmp/model"  # noqa: S108  # of a container of its own
"""What a trial writes is measured and goes with its pod."""
DISTRIBUTIONS: Final[dict[Scale, str]] = {"linear": "uniform", "log": "logUniform"}

METRICS: Final = {"valid_loss": "min", "valid_accuracy": "max", "test_loss": "latest", "test_accuracy": "latest"}
"""What is found in train's log, and which of its values Katib keeps."""
OBJECTIVES: Final = ("valid_loss", "test_loss", "test_accuracy")
"""Metrics of the weights that are kept: those of the lowest valid_loss. Its accuracy is not in the log by itself."""
FILTER: Final = rf"\b({'|'.join(METRICS)})=([0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?)"
"""Name and number in a line of train's log, in RE2's syntax. `_` is part of a word: best_valid_loss is not found."""

ALGORITHMS: Final = ("tpe", "random", "multivariate-tpe", "bayesianoptimization", "grid", "cmaes", "sobol")
LINEAR_ONLY: Final = ("bayesianoptimization", "grid", "cmaes", "sobol")
"""Algorithms whose services, or older ones of them, take every scale for a linear one, without a word."""
LOG_MIN: Final = {"multivariate-tpe": 1e-10}
"""Optuna's service moves a smaller min of a log scale up to this, without a word."""

MAX_NAME_CHARS: Final = 40
"""Names of trials and of services add up to 22 to the experiment's, and Kubernetes' labels hold 63."""
NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class Search:
    """What an Experiment does besides its space."""

    image: str
    """The training image."""
    objective: Objective
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of train, the same for all trials: `data`, `preset`."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """PersistentVolumeClaims by the folder where trials find them, `/data`; read only."""
    algorithm: str = "tpe"
    max_trials: int = 12
    parallel_trials: int = 2
    max_failed_trials: int = 3
    gpus: int = 0
    """Of each trial."""


def to_katib(space: Space) -> list[dict[str, Any]]:
    """The `spec.parameters` of an Experiment: all values are texts, names are those of train's flags.

    Raises:
        ConfigError: A text would not arrive at train as it is: Katib hands a trial's command to a shell.
    """
    return [_parameter(setting_name(name), tried) for name, tried in space.items()]


def from_katib(parameters: Any, source: str = "spec.parameters") -> Space:
    """The space of an Experiment's `spec.parameters`.

    Args:
        source: What holds them, for messages.

    Raises:
        ConfigError: There is something in it that a search space cannot hold, such as steps or a normal distribution.
    """
    if not isinstance(parameters, Sequence) or isinstance(parameters, str | bytes):
        raise ConfigError(f"{source} hold a {type(parameters).__name__}, expected a list of parameters")
    content: dict[str, dict[str, Any]] = {}
    for parameter in parameters:
        name = parameter.get("name") if isinstance(parameter, Mapping) else None
        if not isinstance(name, str):
            raise ConfigError(f"{source} have a parameter without name, expected the name of a setting")
        if name in content:
            raise ConfigError(f"{source} have {name:.80} twice: give one of them")
        content[name] = _content(parameter, f"{source}: {name:.80}")
    return parse(content, source)


def experiment(name: str, space: Space, search: Search) -> dict[str, Any]:
    """A whole Experiment, ready for `kubectl create`, in a namespace in which Katib collects metrics.

    Raises:
        ConfigError: Katib would refuse it, or search something else than was asked for.
    """
    if not NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise ConfigError(
            f'experiment name "{name}" is not one of Kubernetes: expected at most {MAX_NAME_CHARS} lower case letters, '
            "digits and hyphens, a letter first"
        )
    shared = _shared(search)
    _check(space, shared, search)
    metrics = [search.objective.metric, *(metric for metric in METRICS if metric != search.objective.metric)]
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": name},
        "spec": {
            "objective": {
                "type": search.objective.direction,
                "objectiveMetricName": metrics[0],
                "additionalMetricNames": metrics[1:],
                "metricStrategies": [{"name": metric, "value": METRICS[metric]} for metric in metrics],
            },
            "algorithm": {"algorithmName": search.algorithm},
            "maxTrialCount": search.max_trials,
            "parallelTrialCount": search.parallel_trials,
            "maxFailedTrialCount": search.max_failed_trials,
            "parameters": to_katib(space),
            "metricsCollectorSpec": {
                "collector": {"kind": "StdOut"},
                "source": {"filter": {"metricsFormat": [FILTER]}},
            },
            "trialTemplate": {
                "primaryContainerName": CONTAINER,
                "trialParameters": [{"name": key, "reference": setting_name(key)} for key in space],
                "trialSpec": _job(space, shared, search),
            },
        },
    }


def _parameter(name: str, tried: Range) -> dict[str, Any]:
    if isinstance(tried, Categorical):
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in tried.values)
        texts = [as_text(value) for value in tried.values]
        for text in texts:
            _check_text(text, f"search space: {name} has the value")
        kind, feasible = "discrete" if is_number else "categorical", {"list": texts}
        return {"name": name, "parameterType": kind, "feasibleSpace": feasible}
    return {
        "name": name,
        "parameterType": "int" if isinstance(tried, Integer) else "double",
        "feasibleSpace": {
            "min": as_text(tried.min),
            "max": as_text(tried.max),
            "distribution": DISTRIBUTIONS[tried.scale],
        },
    }


def _job(space: Space, shared: Mapping[str, str], search: Search) -> dict[str, Any]:
    """A trial. The command is said, so that Katib, which wraps it in a shell, need not ask a registry for it."""
    values = {"model_dir": MODEL_DIR, **shared, **{name: f"${{trialParameters.{name}}}" for name in space}}
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": search.image,
        "command": ["python", "-m", "components"],
        "args": ["train", *_flags(values)],
    }
    if search.gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": search.gpus}}
    pod: dict[str, Any] = {"restartPolicy": "Never", "containers": [container]}
    if search.claims:
        named = {f"claim-{place}": item for place, item in enumerate(search.claims.items())}
        container["volumeMounts"] = [
            {"name": volume, "mountPath": folder, "readOnly": True} for volume, (folder, _) in named.items()
        ]
        pod["volumes"] = [
            {"name": volume, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
            for volume, (_, claim) in named.items()
        ]
    # Istio's proxy would outlive the container, and the Job would never be complete.
    metadata = {"annotations": {"sidecar.istio.io/inject": "false"}}
    # A setting that fails once fails again: a trial is not tried six times more, as Jobs are.
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {"backoffLimit": 0, "template": {"metadata": metadata, "spec": pod}},
    }


def _flags(values: Mapping[str, str]) -> list[str]:
    return [f"{flag_of(name)}={value}" for name, value in values.items()]


def _shared(search: Search) -> dict[str, str]:
    """The settings that all trials share, by the names of their fields."""
    names = {name: entry.name for entry in documentation(TrainSettings) for name in (entry.name, *entry.aliases)}
    shared: dict[str, str] = {}
    for given, value in search.settings.items():
        name = names.get(given.replace("-", "_"))
        if name is None:
            raise ConfigError(f"{given!r} is not a setting of train{nearest(given.replace('-', '_'), list(names))}")
        if name in shared:
            raise ConfigError(f"{setting_name(name)} is given to all trials twice: give it once")
        _check_text(value, f"{flag_of(name)} got")
        shared[name] = value
    return shared


def _check(space: Space, shared: Mapping[str, str], search: Search) -> None:
    if search.objective.metric not in OBJECTIVES:
        raise ConfigError(
            f"Katib reads train's log, which does not say {search.objective.metric} of the weights that are kept: "
            f"expected one of {', '.join(OBJECTIVES)}"
        )
    if search.algorithm not in ALGORITHMS:
        raise ConfigError(
            f'algorithm "{search.algorithm}" is none that runs whole trainings, expected one of '
            f"{', '.join(ALGORITHMS)}{nearest(search.algorithm, ALGORITHMS)}"
        )
    if not 1 <= search.parallel_trials <= search.max_trials or not 0 <= search.max_failed_trials <= search.max_trials:
        raise ConfigError(
            f"{search.max_trials} trials with {search.parallel_trials} at once and {search.max_failed_trials} that may "
            "fail: expected at least one trial, and not more at once or failed than there are"
        )
    for name, tried in space.items():
        if name in shared:
            raise ConfigError(f"{setting_name(name)} is searched and given to all trials: leave one of them out")
        _check_algorithm(setting_name(name), tried, search.algorithm)
    check(space, read_settings(TrainSettings, _flags(shared), Environment(), prog="train", description="", environ={}))


def _check_algorithm(name: str, tried: Range, algorithm: str) -> None:
    if isinstance(tried, Categorical):
        return
    if algorithm == "grid" and isinstance(tried, Continuous):
        raise ConfigError(f"search space: {name} is continuous and a grid has steps, expected type categorical")
    if tried.scale == "log" and algorithm in LINEAR_ONLY:
        able = [other for other in ALGORITHMS if other not in LINEAR_ONLY]
        raise ConfigError(
            f"search space: {name} has a log scale, which Katib's {algorithm} takes for a linear one: "
            f"expected one of {', '.join(able)}"
        )
    lowest = LOG_MIN.get(algorithm, 0.0)
    if tried.scale == "log" and tried.min < lowest:
        raise ConfigError(
            f"search space: {name} has a log scale and min {as_text(tried.min)}, Katib's {algorithm} begins at {lowest}"
        )


def _check_text(text: str, what: str) -> None:
    """A shell, and JSON that Katib writes values into, must take it as it is; nothing in it is ever carried out."""
    if shlex.quote(text) != text:
        raise ConfigError(
            f"{what} {text[:80]!r}, which Katib would hand to a shell: expected letters, digits and any of @%+=:,./-_"
        )


def _content(parameter: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A parameter as a file would hold it; what is wrong with its values is left to be said there."""
    _check_keys(parameter, ("name", "parameterType", "feasibleSpace"), where)
    kinds = {"double": "continuous", "int": "integer", "discrete": "categorical", "categorical": "categorical"}
    kind = str(parameter["parameterType"])
    if kind not in kinds:
        raise ConfigError(
            f"{where} has parameterType {shortened(parameter['parameterType'])}, expected one of {', '.join(kinds)}"
            f"{nearest(kind, list(kinds))}"
        )
    feasible = parameter["feasibleSpace"]
    if not isinstance(feasible, Mapping):
        raise ConfigError(f"{where} has a feasibleSpace that is a {type(feasible).__name__}, expected an object")
    if kinds[kind] == "categorical":
        _check_keys(feasible, ("list",), where, optional=("distribution",))
        return {"type": "categorical", "values": feasible["list"]}
    _check_keys(feasible, ("min", "max"), where, optional=("distribution", "step"))
    if str(feasible.get("step") or (1 if kind == "int" else "")) != ("1" if kind == "int" else ""):
        raise ConfigError(f"{where} has the step {shortened(feasible['step'])}, expected none, or type categorical")
    scale = _scale(feasible.get("distribution") or DISTRIBUTIONS["linear"], where)
    return {"type": kinds[kind], "min": feasible["min"], "max": feasible["max"], "scale": scale}


def _check_keys(held: Mapping[str, Any], keys: tuple[str, ...], where: str, optional: tuple[str, ...] = ()) -> None:
    known = (*keys, *optional)
    for key in held:
        if key not in known:
            raise ConfigError(f"{where} has {shortened(key)}, expected {', '.join(known)}{nearest(str(key), known)}")
    for key in keys:
        if key not in held:
            raise ConfigError(f"{where} has no {key}, expected {', '.join(known)}")


def _scale(distribution: Any, where: str) -> Scale:
    for scale, name in DISTRIBUTIONS.items():
        if distribution == name:
            return scale
    known = list(DISTRIBUTIONS.values())
    raise ConfigError(
        f"{where} has the distribution {shortened(distribution)}, expected one of {', '.join(known)}"
        f"{nearest(str(distribution), known)}"
    )
