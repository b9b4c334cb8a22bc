"""What makes a search this one and no other, and a machine of several the one that it is."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from components.data.index import Index
from components.tune.settings import TuneSettings
from components.tune.space import Space, describe
from components.weights import CHANNELS, DEFAULT, NONE
from serving import bundle, files

OWNER_FILE: Final = "owner"


def study_name(settings: TuneSettings, space: Space, images: Index, channels: Mapping[str, Path]) -> str:
    """The same for the same search, wherever it runs: settings, space, images and first weights are hashed.

    Images count by name, label and size, since reading them all would take as long as decoding them; weights by
    content, since a network that was trained again lies where the one before it lay.
    """
    content = [
        (name, [(sample.name, sample.target, _size(sample.path)) for sample in samples])
        for name, samples in images.splits.items()
    ]
    common = {name: value for name, value in settings.learnt_from().items() if name not in space}
    facts = {
        "settings": common | {"weights": _weights(settings.weights, channels)},
        "space": describe(space),
        "objectives": settings.objective,
        "sampler": [settings.sampler, settings.sampler_seed],
        "labels": images.labels,
        "images": content,
    }
    return f"tune-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]}"


def owner_of(folder: Path) -> str:
    """Who runs trials in this checkpoint folder, also when it goes on on another machine."""
    path = folder / OWNER_FILE
    if not path.exists():
        files.write_text(path, uuid.uuid4().hex)
    return path.read_text()


def _weights(setting: str, channels: Mapping[str, Path]) -> str | list[str]:
    if setting == NONE:
        return setting
    if setting != DEFAULT:
        return _digest(Path(setting))
    return [setting, *(_digest(channels[name]) for name in CHANNELS if name in channels)]


def _digest(path: Path) -> str:
    """Of a file, of the manifest of a bundle, which has the hashes of all else, or of the files in a folder."""
    if (path / bundle.MANIFEST).is_file():
        path = path / bundle.MANIFEST
    if path.is_dir():
        return "".join(_digest(inside) for inside in sorted(path.iterdir()) if inside.is_file())
    if not path.is_file():  # said so when the network is built
        return str(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
