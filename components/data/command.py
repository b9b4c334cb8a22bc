"""What `make data` and `make weights` share: settings from flags or make's variables, one sentence for an error."""

import logging
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

from pydantic import BaseModel

from serving.errors import KennelError
from serving.flags import Layer, parse_arguments, resolve

logger = logging.getLogger(__name__)

Settings = TypeVar("Settings", bound=BaseModel)


def run(
    model: type[Settings],
    work: Callable[[Settings], None],
    arguments: list[str],
    environ: Mapping[str, str],
    *,
    prog: str,
    description: str,
) -> int:
    """Read the settings and do the work.

    Each setting is a flag, or a variable in capitals, as `make data DATASET=dogs` hands it on; a flag wins.

    Returns:
        0; 1 after an error, with one sentence; 130 after Ctrl-C.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
    for package in ("components", "serving"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        flags = parse_arguments(model, arguments, prog=prog, description=description)
        variables = {name: environ[name.upper()] for name in model.model_fields if environ.get(name.upper())}
        work(resolve(model, [Layer("variable", variables), flags]))
    except KennelError as error:
        logger.error("error: %s", error)  # noqa: TRY400  # a user's mistake has no traceback
        return 1
    except OSError as error:
        logger.error("error: %s: %s", error.filename or "the disk", error.strerror or error)  # noqa: TRY400  # likewise
        return 1
    except KeyboardInterrupt:
        logger.warning("stopped by Ctrl-C: the same command goes on")
        return 130
    return 0
