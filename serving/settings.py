"""Settings of the server: default < environment < flag. The only place that knows SageMaker's variables and paths.

`KENNEL_<SETTING>` sets any of them (KENNEL_PORT, KENNEL_MAX_BATCH_SIZE) and wins over the variables by which SageMaker
speaks. The CPU quota is not read here: `serving.machine.num_cpus` is the one reader of it.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from serving.errors import ConfigError
from serving.flags import Layer, nearest, parse_arguments, resolve, setting
from serving.headers import PixelRange
from serving.logs import LogFormat
from serving.machine import MAX_BATCH_SIZE, memory_bytes, num_cpus

logger = logging.getLogger(__name__)

PROG: Final = "python -m serving serve"
PREFIX: Final = "KENNEL_"
SAGEMAKER_VARIABLES: Final = {
    "SAGEMAKER_BIND_TO_PORT": "port",
    "SAGEMAKER_MAX_PAYLOAD_IN_MB": "max_payload_mb",
    "SAGEMAKER_MULTI_MODEL": "multi_model",
}
MAX_PAYLOAD_MB: Final = 1024  # the largest request SageMaker has anywhere: asynchronous inference, 1 GB
MAX_TRANSFORM_MB: Final = 100
"""MaxConcurrentTransforms x MaxPayloadInMB (SageMaker API, CreateTransformJob)."""


class ServerSettings(BaseModel):
    """What the server can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path = setting(Path("/opt/ml/model"), help="bundle: the folder that train wrote, or its model.tar.gz")
    model_name: str = setting(
        "model", help="its name in the paths of KServe's protocols, /v1/models/NAME and /v2/models/NAME"
    )
    multi_model: bool = setting(
        False, help="start without a model and load, list, answer with and unload models as SageMaker asks at /models"
    )
    host: str = setting("0.0.0.0", help="address to listen on")  # noqa: S104 - SageMaker's contract
    port: int = setting(8080, ge=0, le=65535, help="TCP port to listen on, 0 for a free one")
    management_port: int | None = setting(
        None,
        ge=1,
        le=65535,
        help="TCP port on the loopback interface whose POST /reload opens the bundle anew, as SIGHUP does",
    )
    engine: Literal["onnx", "onnx-int8", "torch"] = setting(
        "onnx", help="what runs the model; onnx-int8 where the bundle has it, torch in the cuda image alone"
    )
    threads: int | None = setting(None, ge=1, help="threads of the engine, by default the CPUs this container may use")
    max_payload_mb: int = setting(
        25, ge=0, le=MAX_PAYLOAD_MB, unit="MB", help=f"largest request body, 0 for the most there is ({MAX_PAYLOAD_MB})"
    )
    body_timeout_s: float = setting(30.0, gt=0, unit="s", help="time in which a request body must have arrived")
    deadline_s: float = setting(
        55.0,
        gt=0,
        unit="s",
        help="time in which a request must have its answer, above which it is 503; SageMaker waits 60",
    )
    max_batch_size: int | None = setting(
        None,
        ge=1,
        unit="images",
        help="images that run through the model at once, at most; default: four for each CPU, from 8 to 32, "
        "and 32 with torch",
    )
    max_queue_size: int | None = setting(
        None,
        ge=1,
        unit="requests",
        help="requests under way, above which the answer is 503; default: eight full batches",
    )
    max_queue_mb: int | None = setting(
        None,
        ge=1,
        unit="MB",
        help="bodies of requests under way, together, above which the answer is 503; default: an eighth of the memory "
        "this container may use",
    )
    decode: Literal["exact", "reduced", "nvjpeg"] = setting(
        "exact",
        help="how pictures become pixels: exact, as in evaluation; reduced, large JPEGs in half the time to somewhat "
        "other pixels; nvjpeg, on the GPU, a few steps of 255 off",
    )
    pixel_range: PixelRange | None = setting(
        None,
        help="what floats are, where the request does not say: unit, 0 to 1, or normalized by the bundle's mean and "
        "standard deviation; default: the bundle's",
    )
    top_k: int = setting(5, ge=1, unit="labels", help="labels in an answer, where the request does not say how many")

    url_hosts: str | None = setting(
        None, help="hosts, HOST or HOST:PORT with commas between, from which pictures may be fetched that come as a URL"
    )
    url_timeout_s: float = setting(10.0, gt=0, unit="s", help="time in which such a picture must have come")
    log_format: LogFormat = setting(
        "text", help="log lines for people, or JSON objects with the request's id and trace"
    )
    log_requests: bool = setting(False, help="a log line for each request, not only for those refused")

    @field_validator("url_hosts")
    @classmethod
    def _hosts_can_be_asked(cls, value: str | None) -> str | None:
        from serving.remote import check_host  # which needs http and ssl, and most servers neither

        for host in _split(value):
            try:
                check_host(host)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.port and self.port == self.management_port:
            raise ValueError(f"--port and --management-port are both {self.port}, expected two different ports")
        return self

    @property
    def allowed_hosts(self) -> list[str]:
        """From which pictures may be fetched."""
        return _split(self.url_hosts)

    @property
    def max_payload_bytes(self) -> int:
        """Largest request body, in bytes."""
        return (self.max_payload_mb or MAX_PAYLOAD_MB) * 2**20

    @property
    def execution_parameters(self) -> dict[str, int | str]:
        """What a batch transform is asked to send at once; SageMaker takes at most 100 MB together."""
        payload_mb = min(self.max_payload_mb or MAX_PAYLOAD_MB, MAX_TRANSFORM_MB)
        at_once = max(1, min(self.queue_size, MAX_TRANSFORM_MB // payload_mb))
        return {"MaxConcurrentTransforms": at_once, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": payload_mb}

    @property
    def batch_size(self) -> int:
        """Images that run through the model at once, at most."""
        by_machine = MAX_BATCH_SIZE if self.engine == "torch" else max(8, min(4 * num_cpus(), MAX_BATCH_SIZE))
        return self.max_batch_size or by_machine

    @property
    def queue_size(self) -> int:
        """Requests under way, at most."""
        return self.max_queue_size or 8 * self.batch_size

    @property
    def max_queue_bytes(self) -> int:
        """Of the bodies of requests under way, together."""
        return memory_bytes() // 8 if self.max_queue_mb is None else self.max_queue_mb * 2**20


def read(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> ServerSettings:
    """Settings from flags and environment; prints help and exits on `--help`.

    Raises:
        ConfigError: A flag is unknown, or a value is not as expected.
    """
    flags = parse_arguments(ServerSettings, arguments, prog=PROG, description="Answer pictures with a bundle's labels.")
    return resolve(ServerSettings, [*_from_environment(environment), flags])


def _split(hosts: str | None) -> list[str]:
    return [host.strip() for host in (hosts or "").split(",") if host.strip()]


def _from_environment(environment: Mapping[str, str]) -> list[Layer]:
    """One layer for each variable, so that a message names the variable; Kennel's own come last and win."""
    layers = [
        Layer(f"environment variable {variable} for", {name: environment[variable]})
        for variable, name in SAGEMAKER_VARIABLES.items()
        if environment.get(variable)  # compose passes on what is unset as an empty text
    ]
    known = [PREFIX + name.upper() for name in ServerSettings.model_fields]
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or not value:
            continue
        # Kubernetes injects KENNEL_PORT=tcp://... and KENNEL_SERVING_PORT=... beside services of these names.
        if variable not in known or value.startswith(("tcp://", "udp://")):
            logger.warning("environment variable %s is no setting and ignored%s", variable, nearest(variable, known))
            continue
        name = variable.removeprefix(PREFIX).lower()
        layers.append(Layer(f"environment variable {variable} for", {name: value}))
    return layers
