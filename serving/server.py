"""Runs the application on uvicorn: the port is bound first, and a stop answers everything that was received."""

import asyncio
import logging
import signal
import socket
from typing import Final

import uvicorn
from fastapi import FastAPI

logger = logging.getLogger(__name__)

GRACE_S: Final = 25  # for requests under way; SageMaker kills 30 s after SIGTERM
LINGER_S: Final = 0.1
KEEP_ALIVE_S: Final = 75  # longer than the 60 s of load balancers, else one writes to a connection just closed


class Server(uvicorn.Server):
    """One process, one event loop, one application."""

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking requests, then answer those taken."""
        # What lies in the kernel's buffers has arrived as far as its sender can tell: read it before closing.
        await asyncio.sleep(LINGER_S)
        await super().shutdown(sockets)


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then return once what was received is answered, or after `GRACE_S`."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = Server(app)
    # uvicorn puts back these handlers when it ends and raises the signal again; with its own, that does nothing.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run(sockets=[listener])
    logger.info("stopped")
