"""HTTP over a socket, byte by byte: what well-behaved clients hide is what tests of faults are about."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

HOST: Final = "127.0.0.1"
ANSWER_S: Final = 90.0
"""Longer than any answer may take: what comes later never comes."""
CONTINUE: Final = 100


@dataclass(frozen=True)
class Request:
    """What is sent."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    method: str = "POST"

    @property
    def head(self) -> bytes:
        """Everything before the body."""
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: kennel", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass(frozen=True)
class Answer:
    """What comes back."""

    status_code: int
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes


class Connection:
    """One connection, kept alive from request to request.

    Args:
        port: On this machine.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    async def ask(self, request: Request) -> Answer:
        """Send a request whole, and read its answer."""
        await self.send(request.head + request.body)
        return await self.answer()

    async def send(self, data: bytes) -> None:
        """Send bytes, whatever they are."""
        assert self._writer
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> Answer:
        """Read one answer.

        Raises:
            ConnectionError: There was none, or half of one.
        """
        assert self._reader
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = _parse(await self._reader.readuntil(b"\r\n\r\n"))
                while answer.status_code == CONTINUE:  # a go-ahead, no answer
                    answer = _parse(await self._reader.readuntil(b"\r\n\r\n"))
                length = int(answer.headers.get("content-length", "0"))
                body = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise ConnectionError(f"the server closed the connection after {error.partial!r:.100}") from error
        return Answer(answer.status_code, answer.headers, body)

    async def receive(self, count: int) -> bytes:
        """The first bytes of an answer, whatever they are."""
        assert self._reader
        async with asyncio.timeout(ANSWER_S):
            return await self._reader.read(count)

    def cut(self) -> None:
        """Drop the connection as a lost network does: at once, and without goodbye to what is under way."""
        if self._writer:
            self._writer.transport.abort()

    async def reopen(self) -> None:
        """Begin again, after the server closed the connection."""
        self.cut()
        await self.__aenter__()


@asynccontextmanager
async def connections(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """So many at once."""
    opened = [Connection(port) for _ in range(count)]
    try:
        await asyncio.gather(*(connection.__aenter__() for connection in opened))
        yield opened
    finally:
        for connection in opened:
            connection.cut()


def _parse(head: bytes) -> Answer:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return Answer(int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}, b"")
