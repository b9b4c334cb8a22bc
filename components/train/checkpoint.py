"""What a killed run goes on from.

A checkpoint holds what cannot be computed again: parameters that learn and all buffers, the optimizer's state, the
moving average, the epochs done, the best one's weights, the sums over the epoch under way and how many batches of it
are done. The rest follows from these:

- The learning rate is a function of the position (`plan.learning_rate`), so no scheduler has a state.
- What is drawn at random is drawn from the seed, the epoch and the batch or image, so no generator has one either.
- bfloat16 reaches as far as float32, so no gradient is scaled.
- Early stopping counts in the epochs done.
- metrics.jsonl is written anew from the epochs done, so what a killed process wrote beyond them is gone.
- Frozen weights are where the first ones came from, and do not change. Their hash is part of the identity.

The identity is what makes a run this one: settings as text, hashes of labels, data and first weights. A checkpoint of
another run is left alone, and the log says what differs. Facts are what the last digits depend on: threads, processes,
versions. With other ones the run goes on, and the log says so.
"""

import hashlib
import io
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from components.environment import StopSignal
from components.model import learnt_state
from components.train.loop import Epoch, Observer, Run
from components.train.metrics import EpochResult
from serving import files

logger = logging.getLogger(__name__)

FORMAT: Final = 1
MAX_COST: Final = 0.05
"""Largest share of the time that checkpoints may take: large ones are written less often than was asked for."""
KEPT: Final = 2
"""So many of the newest stay: should the newest be torn, the one before it is whole."""


class Checkpoints(Observer):
    """Saves the run now and then and when it is told to stop; goes on from the newest whole one of the same run.

    To be the last of the observers: what the others decide at the end of an epoch is saved with it.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, str],
        *,
        interval_s: float,
        stop_signal: StopSignal,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Keep checkpoints.

        Args:
            folder: Of checkpoints; those of other runs in it stay, the newest of them.
            identity: All that makes a run this one, by name: values of settings, hashes of data and first weights.
            interval_s: A step or epoch ends with a checkpoint when the last one is so old; 0: every one does.
            stop_signal: After it, the step under way is finished and saved.
            facts: Versions, threads and processes, on which the last digits depend; a change is logged, not refused.
        """
        self._folder = folder
        self._identity = dict(identity)
        self._name = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()[:8]
        self._interval_s = interval_s
        self._stop_signal = stop_signal
        self._facts = dict(facts or {})
        self._saved_at = time.monotonic()
        self._took_s = 0.0
        self._is_saved = False

    def resume(self, run: Run) -> None:
        """Put the run where the newest whole checkpoint left it; to be called before training starts."""
        found = None
        if run.world.is_leader:
            self._folder.mkdir(parents=True, exist_ok=True)
            files.sweep(self._folder)
            found = self._newest()
        # Only the leader writes, and the folders of other hosts may be others.
        content = run.world.share(b"" if found is None else found[1])
        if content:
            state = _load(content)
            self._restore(run, state)
            if found is not None:
                self._log(run, found[0], state["facts"])
        self._saved_at = time.monotonic()

    def on_start(self, run: Run) -> None:
        """From here on a signal waits for the end of the step or the epoch: all processes have to stop at the same."""
        self._stop_signal.hold()

    def on_batch(self, run: Run, batch: int, num_batches: int) -> None:
        """Until the step is done, there is nothing whole to save."""
        self._is_saved = False

    def on_step(self, run: Run, batch: int, num_batches: int) -> None:
        """Save when told to stop, or when the last checkpoint is old."""
        self._save_or_stop(run)

    def on_epoch(self, run: Run, result: EpochResult) -> bool:
        """Save when told to stop, or when the last checkpoint is old."""
        self._is_saved = False
        self._save_or_stop(run)
        return True

    def on_end(self, run: Run) -> None:
        """Save a run that came to its end, so that it is not run again."""
        if self._is_finished(run) and not self._is_saved:
            self._save(run)
        self._stop_signal.release()

    def _save_or_stop(self, run: Run) -> None:
        is_stopping = run.world.any(self._stop_signal.is_pending)
        if is_stopping or self._is_due():
            self._save(run)
        if is_stopping:
            self._stop_signal.is_pending = True
            self._stop_signal.release()

    def _is_due(self) -> bool:
        interval_s = max(self._interval_s, self._took_s / MAX_COST) if self._interval_s else 0.0
        return time.monotonic() - self._saved_at >= interval_s

    def _is_finished(self, run: Run) -> bool:
        return run.is_stopped or len(run.history) >= run.plan.epochs

    def _paths(self) -> list[Path]:
        """This run's, from the oldest to the newest: epoch and batch stand in the name, in digits that sort."""
        return sorted(self._folder.glob(f"checkpoint-{self._name}-*.pt"))

    def _others(self) -> list[Path]:
        """Those of other runs, from the oldest to the newest."""
        paths = set(self._folder.glob("checkpoint-*.pt")) - set(self._paths())
        return sorted(paths, key=lambda path: path.stat().st_mtime_ns)

    def _save(self, run: Run) -> None:
        self._saved_at, self._is_saved = time.monotonic(), True
        if run.world.is_leader:
            self._write(run)
        self._took_s = time.monotonic() - self._saved_at

    def _write(self, run: Run) -> None:
        path = self._folder / f"checkpoint-{self._name}-{run.epoch:06d}-{run.current.num_batches:06d}.pt"
        with files.written_aside(path) as aside:
            torch.save(self._state(run), aside)
        own = self._paths()
        num_done = own.index(path) + 1
        # What is newer was torn: the run would have gone on from it.
        for old in (*own[: max(0, num_done - KEPT)], *own[num_done:], *self._others()[:-KEPT]):
            old.unlink(missing_ok=True)

    def _state(self, run: Run) -> dict[str, Any]:
        average = run.average
        return {
            "format": FORMAT,
            "identity": self._identity,
            "facts": self._facts,
            "learner": learnt_state(run.learner),
            "optimizer": run.optimizer.state_dict(),
            "average": None if average is None else {"state": average.state, "num_updates": average.num_updates},
            "history": [asdict(epoch) for epoch in run.history],
            "current": asdict(run.current) | {"loss": float(run.current.loss)},
            "best_state": run.best_state,
            # An epoch that the time limit cut short is yet to be closed.
            "is_stopped": run.is_stopped and run.current.num_batches == 0,
        }

    def _newest(self) -> tuple[Path, bytes] | None:
        """The newest whole checkpoint of this run, and its content; says why others are not it."""
        for path in (*reversed(self._paths()), *self._others()[-1:]):
            try:
                content = path.read_bytes()
                state = _load(content)
                differences = self._differences(state["identity"])
            except Exception as error:  # torch raises many kinds on a file that is torn or something else
                logger.warning("checkpoint %s is unreadable and ignored: %s", path, error)
                continue
            if not differences:
                return path, content
            logger.info("checkpoint %s is of another run and ignored: %s", path, "; ".join(differences))
        return None

    def _differences(self, other: Mapping[str, str]) -> list[str]:
        """What tells another run from this one, as people read it."""
        return [
            f"{name} differs" if _is_hash(mine) else f"{name} was {other.get(name)} and is {mine}"
            for name in sorted(self._identity.keys() | other.keys())
            if (mine := self._identity.get(name)) != other.get(name)
        ]

    def _restore(self, run: Run, state: dict[str, Any]) -> None:
        run.learner.load_state_dict(state["learner"], strict=False)  # what is frozen is not in it
        run.optimizer.load_state_dict(state["optimizer"])
        if run.average is not None:
            run.average.state, run.average.num_updates = state["average"]["state"], state["average"]["num_updates"]
        run.history = [EpochResult(**epoch) for epoch in state["history"]]
        run.current = Epoch(**state["current"])
        run.best_state = state["best_state"]
        run.is_stopped = state["is_stopped"]

    def _log(self, run: Run, path: Path, before: Mapping[str, str]) -> None:
        where = f"after {len(run.history)} of {run.plan.epochs} epochs and {run.current.num_batches} batches"
        logger.info("checkpoint %s: %s, %s", path, where, "it is complete" if self._is_finished(run) else "going on")
        for name, value in self._facts.items():
            if before.get(name) != value:
                logger.warning(
                    "%s is %s and was %s before the run was stopped: the last digits of its weights may differ",
                    name,
                    value,
                    before.get(name, "unknown"),
                )


def _load(content: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(content), "cpu", weights_only=True)
    if state["format"] != FORMAT:
        raise ValueError(f"its format is {state['format']}, expected {FORMAT}")
    return state


def _is_hash(value: str | None) -> bool:
    """Whether a value says nothing to people: a sha256 in hexadecimal."""
    return value is not None and len(value) == 64 and set(value) <= set("0123456789abcdef")
