"""What a trial leaves in its folder: checkpoints while it lasts, then what it learnt."""

import json
import shutil
from pathlib import Path
from typing import Final

from safetensors.torch import load_file, save_file
from torch import nn

from components.train.loop import Run
from components.train.metrics import EpochResult, as_jsonl
from serving import files

WEIGHTS: Final = "weights.safetensors"
HISTORY: Final = "metrics.jsonl"


def folder_of(folder: Path, number: int) -> Path:
    """Of one trial of those below `folder`."""
    return folder / f"{number:05d}"


def keep(run: Run, folder: Path) -> None:
    """Keep weights and history; checkpoints stay until the study knows, else a kill would cost the whole trial."""
    folder.mkdir(parents=True, exist_ok=True)
    with files.written_aside(folder / WEIGHTS) as aside:
        save_file({name: tensor.contiguous() for name, tensor in run.best_state.items()}, aside)
    files.write_text(folder / HISTORY, as_jsonl(run.history))


def forget_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a trial that is over."""
    for path in folder.glob("checkpoint-*.pt"):
        path.unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Delete what a trial learnt."""
    shutil.rmtree(folder, ignore_errors=True)


def load_learnt(learner: nn.Module, folder: Path) -> bool:
    """Give a learner what a trial learnt that left it in `folder`; returns whether there is something."""
    path = folder / WEIGHTS
    if not path.exists():
        return False
    learner.load_state_dict(load_file(path), strict=False)
    return True


def read_history(folder: Path) -> tuple[EpochResult, ...]:
    """Epochs of the trial that left them in `folder`; empty if there are none."""
    path = folder / HISTORY
    return tuple(EpochResult(**json.loads(line)) for line in path.read_text().splitlines()) if path.exists() else ()
