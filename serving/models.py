"""The models of this server: one, loaded while the port already answers, or many, as the platform asks for them.

Source of loading and unloading: SageMaker Developer Guide, "Build your own container for SageMaker AI multi-model
endpoints".
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from serving import bundle
from serving.errors import BundleError, KennelError, ModelExists, ModelNotFound, NotReady, OutOfMemory
from serving.headers import shortened
from serving.machine import check_memory
from serving.model import Model, load_model, one_line
from serving.settings import ServerSettings

logger = logging.getLogger(__name__)

UNTIL: Final = "/ping stays 503 until a reload (SIGHUP) finds one that can be used"
LOADING: Final = "the model is still loading, try again in a moment"
BROKEN: Final = "the model could not be loaded, the server's log says why"

Load = Callable[[str, Path, ServerSettings], Model]


@dataclass
class _Entry:
    """A model and who uses it."""

    model: Model
    num_users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the last user leaves."""


class Models:
    """Which models can answer; all but `start` belongs to one event loop.

    Models are opened and closed in a thread of their own, beside batches of others.

    Args:
        settings: Where the model is, and what runs it.
        load: How a model is opened.
    """

    def __init__(self, settings: ServerSettings, load: Load = load_model) -> None:
        self._settings = settings
        self._load = load
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._entries: dict[str, _Entry] = {}
        self._problem = LOADING
        self._loading: Future[None] | None = None
        self._changing = asyncio.Lock()

    def start(self) -> None:
        """Begin to load the model of a server of one; a second call does nothing."""
        if self._loading is None and not self._settings.multi_model:
            self._loading = self._thread.submit(self._load_first)

    @property
    def names(self) -> list[str]:
        """Models that are loaded, the first loaded first."""
        return list(self._entries)

    def check_ready(self) -> None:
        """Do nothing while the server can do its work; a server of many models can with none.

        Raises:
            NotReady: The one model is loading, or will never be ready; the message says which.
        """
        if not self._settings.multi_model:
            self.require()

    def path_of(self, name: str) -> Path:
        """Whence the model called `name` was loaded, whether or not it can still answer.

        Raises:
            ModelNotFound: There is none of that name.
        """
        return self._named(name).model.path

    def require(self, name: str | None = None) -> Model:
        """The model called `name`, by default the only one.

        Raises:
            ModelNotFound: There is none of that name.
            NotReady: It is loading, or it will never be ready; the message says which.
        """
        model = self._entry(name).model
        model.require()
        return model

    @contextmanager
    def use(self, name: str | None = None) -> Iterator[Model]:
        """The model, which stays open for as long as the block runs.

        Raises:
            ModelNotFound, NotReady: As for `require`.
        """
        entry = self._entry(name)
        entry.model.require()
        entry.num_users += 1
        try:
            yield entry.model
        finally:
            entry.num_users -= 1
            if entry.num_users == 0:
                entry.unused.set()

    async def load(self, name: str, path: Path) -> Model:
        """Add a model.

        Raises:
            ModelExists: There is one of that name.
            OutOfMemory: It does not fit beside the others.
            BundleError: It cannot be used; says why.
        """
        async with self._changing:
            if name in self._entries:
                raise ModelExists(f"a model called {shortened(name)} is loaded already")
            # The platform frees memory on a 507, by unloading another model.
            model = await self._open(name, path, "unload another first")
            self._entries[name] = _Entry(model)
            return model

    async def unload(self, name: str) -> None:
        """Take a model out, and give its memory back once those who use it have their answers.

        Raises:
            ModelNotFound: There is none of that name.
        """
        async with self._changing:
            entry = self._named(name, take=True)
        await self._retire(entry)  # which may take a while, and is nobody else's business

    async def reload(self) -> Model:
        """Open the bundle anew, and answer with it from now on; requests under way end with the one they began with.

        Raises:
            BundleError, OutOfMemory: The new one cannot be used; the old one stays.
            ModelNotFound: This server has many models, which are the platform's to load.
        """
        if self._settings.multi_model:
            raise ModelNotFound("a server of many models reloads none by itself: DELETE and POST /models do")
        name = self._settings.model_name
        async with self._changing:
            try:
                model = await self._open(name, self._settings.model, "start the server anew")
            except KennelError as error:
                logger.error("not reloaded, the model stays as it was: %s", one_line(error))  # noqa: TRY400
                raise
            old = self._entries.get(name)
            self._entries[name] = _Entry(model)
        if old:
            await self._retire(old)
        return model

    def close(self) -> "Future[None]":
        """Close all models, after what the thread has still to do."""
        closing = self._thread.submit(self._close_all)
        self._thread.shutdown(wait=False)
        return closing

    def _entry(self, name: str | None) -> _Entry:
        if self._settings.multi_model:
            if name is None:
                raise ModelNotFound("this server has many models: POST /models/NAME/invoke")
            return self._named(name)
        if name not in {None, self._settings.model_name}:
            raise ModelNotFound(f"there is no model {shortened(name or '')}, only {self._settings.model_name!r}")
        try:
            return self._entries[self._settings.model_name]
        except KeyError as error:
            raise NotReady(self._problem) from error

    def _named(self, name: str, *, take: bool = False) -> _Entry:
        entry = self._entries.pop(name, None) if take else self._entries.get(name)
        if entry is None:
            raise ModelNotFound(f"there is no model {shortened(name)}; GET /models lists those that are loaded")
        return entry

    def _load_first(self) -> None:
        path = self._settings.model
        try:
            model = self._load(self._settings.model_name, path, self._settings)
        except (KennelError, OSError) as error:
            self._problem = BROKEN
            logger.error("model not loaded: %s; %s", one_line(error), UNTIL)  # noqa: TRY400 - the sentence says it all
        except Exception:
            self._problem = BROKEN
            logger.exception("model not loaded from %s, and this is a mistake in Kennel", path)
        else:
            self._entries[model.name] = _Entry(model)

    async def _open(self, name: str, path: Path, remedy: str) -> Model:
        loop = asyncio.get_running_loop()
        try:
            check_memory(f"model {shortened(name)}", bundle.size_bytes(path), remedy)
            return await loop.run_in_executor(self._thread, self._load, name, path, self._settings)
        except OSError as error:
            raise BundleError(f"bundle at {str(path)!r} cannot be read: {error}") from error
        except MemoryError as error:
            raise OutOfMemory(f"there is no memory left for model {shortened(name)}") from error

    async def _retire(self, entry: _Entry) -> None:
        while entry.num_users:
            entry.unused.clear()
            await entry.unused.wait()
        await asyncio.get_running_loop().run_in_executor(self._thread, entry.model.close)

    def _close_all(self) -> None:
        for entry in self._entries.values():
            entry.model.close()
