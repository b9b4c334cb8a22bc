"""`make data`: fetches a public data set, lays it out for `train --data`, and uploads it to S3 when asked."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from components.data.command import run
from components.data.public import DATASETS, get_dataset
from components.progress import Progress
from serving.flags import setting


class DataSettings(BaseModel):
    """What `make data` can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = setting(help="; ".join(f"{name}: {dataset.what}" for name, dataset in DATASETS.items()))
    dir: Path | None = setting(None, help="where to; default: data/DATASET")
    s3: str | None = setting(None, help="s3://BUCKET/PREFIX to upload it to; what is there unchanged is not sent again")
    mirror: str | None = setting(None, help="address of a folder that has the file, instead of the published address")
    sha256: str | None = setting(None, help="what the download must have; a hash that was printed is pinned with it")


def main(arguments: list[str], environ: Mapping[str, str] = os.environ) -> int:
    """Fetch, lay out, upload; returns the exit code."""

    def work(settings: DataSettings) -> None:
        from components.aws.upload import parse_address, upload

        target = parse_address(settings.s3) if settings.s3 else None  # a wrong one should not cost a download
        progress = Progress()
        place = settings.dir or Path("data") / settings.dataset
        folder = get_dataset(
            settings.dataset, place, mirror=settings.mirror or "", sha256=settings.sha256 or "", progress=progress
        )
        if target is not None:
            upload(folder, target, progress)
        print(f"train on it:  .venv/bin/python -m components.train --data {folder} {DATASETS[settings.dataset].flags}")

    return run(DataSettings, work, arguments, environ, prog="make data", description=str(__doc__))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
