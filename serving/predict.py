"""`python -m serving.predict`: score a bundle on a folder of images, without a server."""

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from serving.errors import ConfigError, KennelError
from serving.flags import parse_arguments, resolve, setting

PROG: Final = "python -m serving.predict"
DESCRIPTION: Final = (
    "Write the labels of all images below a folder to a CSV file. Where its folders are called like the bundle's "
    "labels, accuracy is measured too."
)
INTERRUPTED: Final = 130  # what a shell expects of a program stopped by Ctrl-C


class PredictSettings(BaseModel):
    """What it can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path = setting(help="bundle: the folder that train wrote, or its model.tar.gz")
    images: Path = setting(
        help="folder of images; a folder for each label inside, or inside its test folder, is scored"
    )
    output: Path = setting(Path("predictions.csv"), help="CSV file to write; unreadable files are listed beside it")
    engine: Literal["onnx", "onnx-int8", "torch"] = setting(
        "onnx", help="what runs the model; onnx-int8 where the bundle has it, torch in the cuda image alone"
    )
    threads: int | None = setting(None, ge=1, help="threads of the engine, by default the CPUs this container may use")
    batch_size: int = setting(32, ge=1, unit="images", help="images that run through the model at once")
    top_k: int = setting(5, ge=1, unit="labels", help="labels in a row, the most probable first")


def main(arguments: Sequence[str]) -> int:
    """Run, and return the exit code: 0 when every readable image has its row, 1 with a sentence when not."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the file written aside goes
    try:
        settings = resolve(
            PredictSettings, [parse_arguments(PredictSettings, arguments, prog=PROG, description=DESCRIPTION)]
        )
        run(settings)
    except KennelError as error:
        print(f"{PROG}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROG}: stopped, nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(settings: PredictSettings) -> None:
    """Score the folder and print what there is to say.

    Raises:
        KennelError: The bundle, the folder or the output cannot be used; says why.
    """
    if not settings.images.is_dir():
        found = "is a file" if settings.images.exists() else "does not exist"
        raise ConfigError(f"--images {str(settings.images)!r} {found}, expected a folder of images")
    if settings.output.is_dir():
        raise ConfigError(f"--output {str(settings.output)!r} is a folder, expected a file to write, such as out.csv")

    # Imported only here: help and mistakes in flags need none of it.
    from serving import bundle, golden
    from serving.engines import open_engine
    from serving.scoring import Scorer, report

    with bundle.opened(settings.model) as opened:
        engine = open_engine(settings.engine, opened, settings.threads, settings.batch_size)
        golden.check(opened, engine)
        scorer = Scorer(opened.manifest, engine, settings.batch_size, settings.top_k)
        try:
            scores = scorer.score(settings.images, settings.output)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"--output {str(settings.output)!r} cannot be written: {reason}") from error
    for line in report(scores, settings.output):
        print(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
