"""`python -m serving serve`: the serving image's entrypoint."""

import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Final

if __name__ == "__main__":  # a stop while the rest is imported ends in a traceback, or as process 1 goes unheard
    for early in (signal.SIGTERM, signal.SIGINT):
        signal.signal(early, lambda *_: os._exit(0))

from serving import logs
from serving.errors import ConfigError, UserError
from serving.settings import PROG, ServerSettings, read

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
USAGE: Final = f"""usage: {PROG} [flags]

commands:
  serve    answer pictures over HTTP with a bundle's labels; `{PROG} --help` lists the flags
"""


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit code: 0 when asked to stop, 1 for a mistake in how it was called."""
    logs.configure("text")
    try:
        if arguments and arguments[0] in {"-h", "--help"}:
            print(USAGE, end="")
        elif arguments and arguments[0] == "serve":
            serve(read(arguments[1:]))
        else:
            found = f'"{arguments[0]}" is not a command' if arguments else "no command was given"
            raise ConfigError(f"{found}, expected serve: {PROG} --help")
    except UserError as error:
        print(f"python -m serving: {error}", file=sys.stderr)
        return 1
    return 0


def serve(settings: ServerSettings) -> None:
    """Serve until told to stop.

    Raises:
        ConfigError: A port cannot be had.
    """
    # As process 1 of a container we have no default handlers: a stop during start-up would go unheard.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _leave(0))
    early = threading.Event()  # a SIGHUP before anybody can reload; it is made up for
    signal.signal(signal.SIGHUP, lambda *_: early.set())
    logs.configure(settings.log_format)
    listeners = [bind(settings.host, settings.port)]
    logger.info("listening on %s port %d", *listeners[0].getsockname()[:2])
    if settings.management_port:
        listeners.append(bind(LOOPBACK, settings.management_port, flag="--management-port"))

    # Imported only here: `--help` and a port in use need none of it. The model loads while FastAPI is imported.
    from serving.models import Models

    models = Models(settings)
    models.start()
    from serving.app import create_app
    from serving.server import run

    run(create_app(settings, models), listeners, on_hangup=models.reload, is_due=early)
    _leave(0)


def bind(host: str, port: int, flag: str = "--port") -> socket.socket:
    """Listen; connections wait in the kernel until the server takes them.

    Raises:
        ConfigError: The address is taken, is not ours or is not allowed.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        is_of_host = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        remedy = "--host takes an address of this machine" if is_of_host else f"choose another with {flag}"
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}; {remedy}") from error


def _leave(code: int) -> None:
    """Leave at once: a thread inside native code can be neither stopped nor waited for."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
