"""What a search leaves: the best hyperparameters, a table of trials, a page."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from components.train.settings import TrainSettings
from components.tune.objective import Objective
from components.tune.space import as_text, setting_name
from components.tune.trials import Trial, front
from serving import files
from serving.flags import documentation

BEST: Final = "best_hyperparameters.json"
TABLE: Final = "trials.csv"
STATUSES: Final = {"complete": "Completed", "pruned": "Stopped", "failed": "Failed", "running": "InProgress"}
"""As SageMaker calls them."""
COLUMNS: Final = (
    *("TrainingJobName", "TrainingJobStatus", "FinalObjectiveValue"),
    *("TrainingStartTime", "TrainingEndTime", "TrainingElapsedTimeSeconds"),
)
"""SageMaker's, behind those of the settings."""
OWN_COLUMNS: Final = ("epochs_done", "seconds", "epochs_s", "is_on_front", "reason")


def best_hyperparameters(settings: TrainSettings) -> dict[str, str]:
    """Hyperparameters of a training, all texts: those that are not train's defaults anyway.

    As `--hyperparameters`, SageMaker's CreateTrainingJob and Kubeflow's components take them.
    """
    defaults = {entry.name: entry.default for entry in documentation(TrainSettings)}
    found = settings.learnt_from()
    return {
        setting_name(name): as_text(value)
        for name, value in found.items()
        if value is not None and value != defaults[name]
    }


def write_best(folder: Path, settings: TrainSettings, searched: Sequence[str]) -> Path:
    """Write best_hyperparameters.json: what was searched first, then what the search was told and is not a default."""
    found = best_hyperparameters(settings)
    learnt_from = settings.learnt_from()
    own = {setting_name(name): as_text(value) for name in searched if (value := learnt_from[name]) is not None}
    path = folder / BEST
    files.write_text(path, json.dumps({**own, **found}, indent=2) + "\n")
    return path


def write_table(folder: Path, trials: Sequence[Trial], objectives: Sequence[Objective]) -> Path:
    """Write trials.csv: the columns of SageMaker's tuning analytics, then what it has none for.

    Source: SageMaker Python SDK, HyperparameterTuningJobAnalytics.dataframe.
    """
    of_front = {trial.number for trial in front(trials, objectives)}
    rows = [_row(trial, objectives, is_on_front=trial.number in of_front) for trial in trials]
    names = list(dict.fromkeys(setting_name(name) for trial in trials for name in trial.parameters))
    columns = [*names, *COLUMNS, *(objective.metric for objective in objectives), *OWN_COLUMNS]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = folder / TABLE
    files.write_text(path, table.getvalue())
    return path


def _row(trial: Trial, objectives: Sequence[Objective], *, is_on_front: bool) -> Mapping[str, object]:
    elapsed_s = (trial.ended - trial.started).total_seconds() if trial.ended else None
    return {
        **{setting_name(name): as_text(value) for name, value in trial.parameters.items()},
        "TrainingJobName": f"trial-{trial.number:05d}",
        "TrainingJobStatus": STATUSES[trial.state],
        "FinalObjectiveValue": trial.values[0] if trial.values else None,
        "TrainingStartTime": _instant(trial.started),
        "TrainingEndTime": None if trial.ended is None else _instant(trial.ended),
        "TrainingElapsedTimeSeconds": elapsed_s,
        **{objective.metric: value for objective, value in zip(objectives, trial.values, strict=False)},
        "epochs_done": len(trial.losses),
        "seconds": round(trial.seconds, 3),
        "epochs_s": round(trial.epochs_s, 3),
        "is_on_front": is_on_front,
        "reason": trial.reason,
    }


def _instant(moment: datetime) -> str:
    """In UTC, and says so, as SageMaker's are; a moment without a zone is of this machine's clock."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
