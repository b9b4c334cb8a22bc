"""`make weights`: fetches the weights that torchvision publishes, for jobs that have no network.

The address is torchvision's own; the first digits of the file's sha256 are in its name and are checked.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from components.data.command import run
from components.data.download import Remote, download
from components.data.public import moved
from components.progress import Progress
from serving.errors import ConfigError
from serving.flags import nearest, setting

HASH: Final = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


class WeightsSettings(BaseModel):
    """What `make weights` can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str = setting(help="torchvision classification architecture, such as resnet50")
    dir: Path = setting(Path("weights"), help="folder that the file goes to, under its published name")
    s3: str | None = setting(None, help="s3://BUCKET/PREFIX to upload it to, for a channel called weights")
    mirror: str | None = setting(None, help="address of a folder that has the file, instead of the published address")


def published(arch: str) -> Remote:
    """Address of the weights that `--weights default` means.

    Raises:
        ConfigError: torchvision has no such architecture.
    """
    from torchvision import models  # torch takes seconds to import

    known = models.list_models(models)
    if arch not in known:
        raise ConfigError(f'ARCH got "{arch}", expected one of torchvision\'s architectures{nearest(arch, known)}')
    url: str = models.get_model_weights(arch).DEFAULT.url
    checksum = HASH.search(url)
    if checksum is None:
        raise ConfigError(f"the name of {url} has no checksum to compare with: fetch it yourself")
    return Remote(url, sha256=checksum[1])


def get_weights(
    arch: str, folder: Path, *, mirror: str = "", progress: Callable[[str, int, int], None] = lambda *_: None
) -> Path:
    """Download the weights of an architecture into `folder`, unless they are there.

    Raises:
        ConfigError: No such architecture, or the address does not answer.
        DataError: What came has another checksum.
    """
    remote = published(arch)
    path = folder / remote.name
    download(moved(remote, mirror, ""), path, progress=progress)
    return path


def main(arguments: list[str], environ: Mapping[str, str] = os.environ) -> int:
    """Fetch and upload; returns the exit code."""

    def work(settings: WeightsSettings) -> None:
        from components.aws.upload import parse_address, upload

        target = parse_address(settings.s3) if settings.s3 else None
        progress = Progress()
        path = get_weights(settings.arch, settings.dir, mirror=settings.mirror or "", progress=progress)
        if target is not None:
            upload(path, target, progress)
        sys.stdout.write(f"train with it:  .venv/bin/python -m components.train --weights {path}\n")

    return run(WeightsSettings, work, arguments, environ, prog="make weights", description=str(__doc__))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
