"""How uvicorn is run; stopping a whole process is in test_http.py."""

import asyncio
import socket

import pytest
from fastapi import FastAPI

from serving.__main__ import bind
from serving.errors import ConfigError
from serving.server import Server

pytestmark = pytest.mark.anyio


async def test_a_request_that_arrives_in_the_moment_of_stopping_is_answered() -> None:
    """Its bytes lie in the kernel, and the event loop had no turn yet to read them when the shutdown begins."""
    app = FastAPI()
    app.add_api_route("/ping", lambda: "pong")
    listener = bind("127.0.0.1", 0)
    with socket.create_connection(listener.getsockname(), timeout=20) as connection:

        class StoppedAtOnce(Server):
            async def main_loop(self) -> None:
                connection.sendall(b"GET /ping HTTP/1.1\r\nHost: kennel\r\n\r\n")

        await StoppedAtOnce(app).serve(sockets=[listener])
        answer = await asyncio.to_thread(connection.recv, 4096)
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
async def test_a_bound_port_takes_connections_before_the_server_runs(host: str) -> None:
    with bind(host, 0) as listener, socket.create_connection(listener.getsockname()[:2], timeout=20):
        pass


async def test_a_port_is_bound_once() -> None:
    with bind("127.0.0.1", 0) as listener, pytest.raises(ConfigError, match="choose another with --port"):
        bind("127.0.0.1", listener.getsockname()[1])
