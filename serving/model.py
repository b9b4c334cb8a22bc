"""A model that can answer: a bundle, opened, with an engine that answered the bundle's golden inputs as expected."""

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from serving import golden
from serving.bundle import Bundle, Manifest, opened
from serving.engines import Engine, Logits, open_engine
from serving.engines.activation_map import ActivationMaps
from serving.errors import NotReady
from serving.machine import num_cpus, release_memory
from serving.preprocess import Pixels
from serving.settings import ServerSettings

logger = logging.getLogger(__name__)

LOST: Final = "the model failed while serving and is out of service, the server's log says why"


class Model:
    """Answers batches until it is closed, or until its engine fails for good."""

    def __init__(
        self, name: str, path: Path, bundle: Bundle, engine: Engine, maps: ActivationMaps, resources: ExitStack
    ) -> None:
        self.name = name
        self.path = path
        self.engine = engine
        self.maps = maps
        self._bundle = bundle
        self._resources = resources  # the folder into which an archive was unpacked
        self._is_lost = False

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def version(self) -> str:
        """Short name of exactly this bundle: the beginning of its hash."""
        return self.manifest.sha256[:12]

    def require(self) -> None:
        """Do nothing while it can answer.

        Raises:
            NotReady: Its engine failed for good.
        """
        if self._is_lost:
            raise NotReady(LOST)

    def infer(self, pixels: Pixels) -> Logits:
        """Run a batch; from one thread at a time. See `Engine.infer`.

        When the engine fails, the golden inputs decide whether it can go on: a batch may have been too much for the
        memory, but an engine that cannot answer them any more is out of service, and `require` says so.
        """
        self.require()
        try:
            return self.engine.infer(pixels)
        except Exception:
            self._check_again()
            raise

    def close(self) -> None:
        """Give back memory and files; nobody may be using it."""
        del self.engine, self.maps
        self._resources.close()
        release_memory()

    def _check_again(self) -> None:
        try:
            golden.check(self._bundle, self.engine)
        except Exception as error:  # whatever it is, the engine does not answer as it must
            self._is_lost = True
            logger.error("model out of service: %s", one_line(error))  # noqa: TRY400 - the batch logs its own


def load_model(name: str, path: Path, settings: ServerSettings) -> Model:
    """Open the bundle at `path`, check it, and warm its engine up.

    Raises:
        BundleError: It is not whole, or its engine does not answer as expected.
        KennelError: The engine does not exist here.
    """
    started = time.perf_counter()
    with ExitStack() as resources:
        bundle = resources.enter_context(opened(path))
        engine = open_engine(settings.engine, bundle, settings.threads, settings.batch_size)
        difference = golden.check(bundle, engine)
        _warm_up(bundle, engine, settings.batch_size)
        maps = ActivationMaps(bundle, settings.threads or num_cpus())
        model = Model(name, path, bundle, engine, maps, resources.pop_all())
    release_memory()  # the file that the weights were read from
    logger.info(
        "model ready: %s with %d labels from %s, engine %s (%s), golden inputs %.1e off, loaded in %.2f s",
        bundle.manifest.architecture,
        len(bundle.manifest.labels),
        path,
        engine.name,
        ", ".join(f"{option} {value}" for option, value in engine.options.items()),
        difference,
        time.perf_counter() - started,
    )
    return model


def one_line(error: Exception) -> str:
    """An error as a line of log."""
    return " ".join(str(error).split())


def _warm_up(bundle: Bundle, engine: Engine, max_batch_size: int) -> None:
    """Run the smallest and the largest batch once: first calls allocate, and would be some request's long wait."""
    spec = bundle.manifest.input
    for batch_size in (max_batch_size, 1):
        engine.infer(np.zeros((batch_size, spec.height, spec.width, 3), dtype=np.uint8))
