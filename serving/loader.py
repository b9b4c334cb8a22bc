"""Loads the bundle in the engine's thread, while the port already answers, and knows whether the model can answer."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import numpy as np

from serving import bundle, golden
from serving.engines import Engine, Logits, open_engine
from serving.errors import KennelError, NotReady
from serving.preprocess import Pixels
from serving.settings import ServerSettings

logger = logging.getLogger(__name__)

LOADING: Final = "the model is still loading, try again in a moment"
BROKEN: Final = "the model could not be loaded, the server's log says why"
LOST: Final = "the model failed while serving and is out of service, the server's log says why"


@dataclass(frozen=True)
class Model:
    """A bundle whose engine answered the golden inputs as expected."""

    bundle: bundle.Bundle
    engine: Engine


class Loader:
    """Holds the model, from loading to closing.

    Everything the engine does happens in one thread, `thread`: loading, checks and batches never run side by side.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.thread: Final = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._settings = settings
        self._model: Model | None = None
        self._problem = LOADING
        self._loading: Future[None] | None = None
        self._resources = ExitStack()  # the folder into which an archive was unpacked

    def start(self) -> None:
        """Begin to load; a second call does nothing."""
        if self._loading is None:
            self._loading = self.thread.submit(self._load)

    def require(self) -> Model:
        """The model.

        Raises:
            NotReady: It is loading, or it will never be ready; the message says which.
        """
        if self._model is None:
            raise NotReady(self._problem)
        return self._model

    def infer(self, pixels: Pixels) -> Logits:
        """Run a batch; to be called in `thread`. See `Engine.infer`.

        When the engine fails, the golden inputs decide whether it can go on: a batch may have been too much for the
        memory, but an engine that cannot answer them any more is out of service, and `require` says so.
        """
        model = self.require()
        try:
            return model.engine.infer(pixels)
        except Exception:
            self._check_again(model)
            raise

    def close(self) -> "Future[None]":
        """Take the model out of service and clean up, after what the thread has still to do."""
        closing = self.thread.submit(self._resources.close)
        self.thread.shutdown(wait=False)
        return closing

    def _load(self) -> None:
        path = self._settings.model
        started = time.perf_counter()
        try:
            opened = self._resources.enter_context(bundle.opened(path))
            engine = open_engine(self._settings.engine, opened, self._settings.threads)
            difference = golden.check(opened, engine)
            self._warm_up(opened, engine)
        except (KennelError, OSError) as error:
            self._problem = BROKEN
            logger.error("model not loaded: %s", _one_line(error))  # noqa: TRY400 - the sentence says it all
            return
        except Exception:
            self._problem = BROKEN
            logger.exception("model not loaded from %s, and this is a mistake in Kennel", path)
            return
        self._model = Model(opened, engine)
        logger.info(
            "model ready: %s with %d labels from %s, engine %s (%s), golden inputs %.1e off, loaded in %.2f s",
            opened.manifest.architecture,
            len(opened.manifest.labels),
            path,
            engine.name,
            ", ".join(f"{name} {value}" for name, value in engine.options.items()),
            difference,
            time.perf_counter() - started,
        )

    def _warm_up(self, opened: bundle.Bundle, engine: Engine) -> None:
        """Run the smallest and the largest batch once: first calls allocate, and would be some request's long wait."""
        spec = opened.manifest.input
        for batch_size in (self._settings.max_batch_size, 1):
            engine.infer(np.zeros((batch_size, spec.height, spec.width, 3), dtype=np.uint8))

    def _check_again(self, model: Model) -> None:
        try:
            golden.check(model.bundle, model.engine)
        except Exception as error:  # whatever it is, the engine does not answer as it must
            self._model = None
            self._problem = LOST
            logger.error("model out of service: %s", _one_line(error))  # noqa: TRY400 - the batch logs its own


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
