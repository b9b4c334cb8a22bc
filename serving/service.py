"""From a request to the logits of its pictures: the one way that every protocol's route takes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from fastapi import Request

from serving.admission import Admission
from serving.batching import Batcher
from serving.bodies import declared_bytes, read_body, while_caller_waits
from serving.engines import Logits
from serving.errors import ConfigError, DeadlinePassed, InvalidInput
from serving.headers import CUSTOM_ATTRIBUTES, check_encoding, check_query, parse_attributes, parse_top_k
from serving.idleness import Idleness
from serving.labelling import Labelled, Labeller, Mapped, Timed
from serving.logs import request_id
from serving.machine import num_cpus
from serving.metrics import Metrics
from serving.model import Model
from serving.models import Models
from serving.preprocess import Preprocess, preprocess
from serving.readers import Body, Reader, check_single
from serving.remote import Fetcher
from serving.settings import ServerSettings
from serving.writers import Answer, softmax

PHASES: Final[Mapping[str, Callable[[Timed], float]]] = {
    "decode": lambda one: one.decode_s,
    "queue": lambda one: one.queue_s,
    "model": lambda one: one.model_s,
}


@dataclass(frozen=True)
class Labels:
    """What a request is answered with."""

    model: Model
    labelled: Sequence[Labelled]
    is_single: bool
    """Whether the request could hold but one picture."""
    top_k: int

    @property
    def logits(self) -> Logits:
        """(N, K)"""
        return np.stack([one.logits for one in self.labelled])

    @property
    def answer(self) -> Answer:
        """For a writer."""
        manifest = self.model.manifest
        return Answer(self.logits, manifest.labels, self.top_k, manifest.calibration.temperature, self.is_single)

    @property
    def headers(self) -> dict[str, str]:
        """See `headers_of`."""
        return headers_of(self.model, self.labelled)


def headers_of(model: Model, pictures: Sequence[Timed]) -> dict[str, str]:
    """Where the time went and who answered: as the W3C's Server-Timing, and where SageMaker lets it through.

    Milliseconds of the slowest picture in each phase.
    """
    phases = {name: 1000 * max(seconds(one) for one in pictures) for name, seconds in PHASES.items()}
    attributes = {
        "request_id": request_id(),
        "model": model.version,
        "engine": model.engine.name,
        **{f"{name}_ms": f"{duration:.2f}" for name, duration in phases.items()},
    }
    return {
        "Server-Timing": ", ".join(f"{name};dur={duration:.2f}" for name, duration in phases.items()),
        CUSTOM_ATTRIBUTES: ", ".join(f"{name}={value}" for name, value in attributes.items()),
    }


class Service:
    """What the routes share."""

    def __init__(self, settings: ServerSettings, models: Models) -> None:
        self.settings = settings
        self.models = models
        self.metrics = Metrics()
        self._batcher = Batcher(settings.batch_size, self.metrics.batch_pictures.observe)
        fetcher = Fetcher(settings.allowed_hosts, settings.max_payload_bytes, settings.url_timeout_s)
        self._labeller = Labeller(
            self._batcher,
            num_cpus(),
            settings.batch_size,
            fetcher,
            _choose_preprocess(settings.decode),
            self.metrics.undecodable.inc,
        )
        self._idleness = Idleness(lambda: self.admission.num_open == 0, self._labeller.run_aside)
        self.admission = Admission(settings.queue_size, settings.max_queue_bytes, self._idleness.begin)
        self.metrics.watch("kennel_queue_pictures", "Waiting for the engine", lambda: self._batcher.num_waiting)
        self.metrics.watch("kennel_requests_under_way", "Admitted", lambda: self.admission.num_requests)
        self.metrics.watch("kennel_bytes_under_way", "Of their bodies", lambda: self.admission.num_bytes)

    async def label(
        self, request: Request, read: Reader, parameters: Mapping[str, str], name: str | None = None
    ) -> Labels:
        """Read the body of `request`, take it apart with `read`, and label its pictures by the model called `name`.

        Raises:
            KennelError: Any but those of training; see `serving.failures` for what a caller is told.
            ClientDisconnect, CallerGoneError: Nobody waits for an answer any more.
        """
        attributes = _attributes(request)
        top_k = parse_top_k(attributes, self.settings.top_k)
        async with self._admitted(request, parameters, attributes, name) as (model, body):
            pictures = await self._labeller.take_apart(read, body)
            labelled = await self._labeller.label(pictures, model)
            labels = Labels(model, labelled, pictures.is_single, top_k)
            self._observe(labels)  # while the model is in use: none of it comes after it was forgotten
            return labels

    async def activation_map(
        self, request: Request, read: Reader, parameters: Mapping[str, str], index: int | None
    ) -> tuple[Model, Mapped]:
        """Where the model looks for the label `index`, by default the most probable, in the picture of `request`.

        Raises:
            InvalidInput: There is no such label; the body holds more than one picture.
            MapNotFound: The bundle cannot tell.
            KennelError, ClientDisconnect, CallerGoneError: As for `label`.
        """
        _check_index(index, self.models.require())
        async with self._admitted(request, parameters, _attributes(request), None) as (model, body):
            pictures = await self._labeller.take_apart(read, body)
            return model, await self._labeller.activation_map(check_single(pictures), model, index)

    async def close(self) -> None:
        """Admit nobody any more, and return when everybody admitted was answered and every model is closed."""
        await self.admission.close()
        self._idleness.close()
        self._labeller.close()
        self._batcher.close()
        await asyncio.wrap_future(self.models.close())

    @asynccontextmanager
    async def _admitted(
        self, request: Request, parameters: Mapping[str, str], attributes: Mapping[str, str], name: str | None
    ) -> AsyncIterator[tuple[Model, Body]]:
        """The model and what came, for as long as the caller waits and an answer may take.

        What is late leaves the queue, so that the engine is not busy with what nobody can use.
        """
        settings = self.settings
        self.models.require(name)
        size_bytes = declared_bytes(request, settings.max_payload_bytes)
        with self.admission.incoming(size_bytes) as incoming:
            try:
                async with asyncio.timeout(settings.deadline_s):
                    data = await read_body(request, size_bytes, settings.body_timeout_s, incoming.add)
                    # Only now is the model in use: a slow caller keeps nobody from unloading it.
                    with self.models.use(name) as model, self.admission.slot():
                        pixel_range = settings.pixel_range or model.manifest.input.pixel_range
                        async with while_caller_waits(request):
                            yield model, Body(data, parameters, attributes, pixel_range)
            except TimeoutError as error:
                late = f"there was no answer within {settings.deadline_s:g} s: send less, or later"
                raise DeadlinePassed(late) from error

    def _observe(self, labels: Labels) -> None:
        manifest = labels.model.manifest
        for one in labels.labelled:
            self.metrics.observe_phases(one.decode_s, one.queue_s, one.model_s)
            probabilities = softmax(one.logits, manifest.calibration.temperature)
            index = int(one.logits.argmax())
            self.metrics.observe_answer(labels.model.name, manifest.labels[index], float(probabilities[index]))


def _choose_preprocess(decode: str) -> Preprocess:
    """How pictures become pixels.

    Raises:
        ConfigError: It cannot be had here.
    """
    if decode != "nvjpeg":
        return partial(preprocess, decoding="reduced" if decode == "reduced" else "exact")
    try:
        from serving.engines.torch_jpeg import JpegDecoder
    except ImportError as error:
        raise ConfigError(f"--decode nvjpeg needs torch, use the cuda image: {error}") from error
    return JpegDecoder("cuda").preprocess


def _attributes(request: Request) -> Mapping[str, str]:
    check_encoding(request.headers.get("content-encoding"))
    check_query(request.query_params)
    return parse_attributes(request.headers.get(CUSTOM_ATTRIBUTES))


def _check_index(index: int | None, model: Model) -> None:
    num_labels = len(model.manifest.labels)
    if index is not None and index >= num_labels:
        raise InvalidInput(f"label is {index}, and the model has the labels 0 to {num_labels - 1}")
