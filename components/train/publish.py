"""From what was learnt to a bundle, the pages beside it and the summary."""

from collections.abc import Sequence
from pathlib import Path

from components.train import inputs
from components.train.export import Card, Learnt, export
from components.train.graph import Graph
from components.train.metrics import EpochResult
from components.train.prepare import Prepared, head_of
from components.train.report import report
from components.train.settings import TrainSettings
from components.train.workplace import Workplace
from serving.bundle import Bundle
from serving.engines import Logits


def publish(
    prepared: Prepared,
    settings: TrainSettings,
    history: Sequence[EpochResult],
    valid_logits: Logits | None,
    workplace: Workplace,
    *,
    model: Path,
    output: Path,
) -> Bundle:
    """Write the bundle of `prepared.network` as it is now, and what people read of it.

    Args:
        prepared: Its network holds what was learnt.
        settings: By which it was learnt.
        history: Its epochs.
        valid_logits: (N, K), when they are known; None: the default engine is asked.
        workplace: Where it is done.
        model: Folder of the bundle.
        output: Folder of pages and tables.

    Raises:
        EngineError: The graph answers otherwise than the network.
    """
    best = min(history, key=lambda result: result.valid_loss)
    card = Card(settings.arch, head_of(settings), prepared.labels, prepared.spec, settings.learnt_from())
    seen = {**prepared.splits, "train": inputs.as_seen(prepared.splits["train"], prepared.spec)}
    with workplace.phases.measured("export and test"):
        exported = export(
            Graph(prepared.network, prepared.spec, workplace.cache),
            card,
            Learnt(best, valid_logits),
            seen,
            model,
            workplace.progress,
            int8_tolerance=settings.int8_tolerance,
        )
    report(exported, history, prepared.splits["test"], workplace.phases.seconds, output)
    return exported.bundle
