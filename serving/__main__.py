"""`python -m serving serve`: the serving image's entrypoint."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

from serving.errors import ConfigError, UserError
from serving.settings import PROG, ServerSettings, read

USAGE = f"""usage: {PROG} [flags]

commands:
  serve    answer pictures over HTTP with a bundle's labels; `{PROG} --help` lists the flags
"""


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit code: 0 when asked to stop, 1 for a mistake in how it was called."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
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
        ConfigError: The port cannot be had.
    """
    # As process 1 of a container we have no default handlers: a stop during start-up would go unheard.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _leave(0))
    listener = bind(settings.host, settings.port)
    logging.getLogger(__name__).info("listening on %s port %d", *listener.getsockname()[:2])

    # Imported only here: `--help` and a port in use need none of it. The model loads while FastAPI is imported.
    from serving.loader import Loader

    loader = Loader(settings)
    loader.start()
    from serving.app import create_app
    from serving.server import run

    run(create_app(settings, loader), listener)
    _leave(0)


def bind(host: str, port: int) -> socket.socket:
    """Listen; connections wait in the kernel until the server takes them.

    Raises:
        ConfigError: The address is taken, is not ours or is not allowed.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from error


def _leave(code: int) -> None:
    """Leave at once: a thread inside native code can be neither stopped nor waited for."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
