"""Pictures fetched by URL, from hosts that the operator allowed and from nowhere else.

A caller who may name URLs must not reach what only the server can reach (OWASP, Server-Side Request Forgery): the host
is on a list, its name is resolved once, every address of it is public and one of these very addresses is connected to;
redirects are not followed, no proxy is asked, size and time are limited.
"""

import asyncio
import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from serving import logs
from serving.errors import ConfigError, InvalidInput
from serving.headers import shortened

PORTS: Final = {"http": 80, "https": 443}
NUM_FETCHERS: Final = 8
"""Pictures fetched at once; so many are in memory at most."""
EMBEDDING: Final = tuple(
    ipaddress.ip_network(block)
    for block in ("::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)
"""IPv6 addresses that stand for an IPv4 address, which may be a private one."""


HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*(:[1-9][0-9]{0,4})?", re.ASCII | re.IGNORECASE)
"""As URLs have it: a name in other letters stands there in its xn-- form."""


@dataclass(frozen=True)
class Remote:
    """A picture that is still elsewhere."""

    url: str


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet: not to this machine, its network, or its cloud's metadata service."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return parsed.is_global and not parsed.is_multicast and not any(parsed in block for block in EMBEDDING)


def check_host(text: str) -> None:
    """Whether pictures can come from a host that an operator names, as `HOST` or `HOST:PORT`.

    Raises:
        ConfigError: It is none, or at an address that is never connected to; what a name resolves to is not asked.
    """
    if not _is_address(text) and not (HOST.fullmatch(text) and int(text.partition(":")[2] or 0) < 2**16):
        raise ConfigError(f"{shortened(text)} is no HOST or HOST:PORT, such as images.example.com or example.com:8443")
    host = text if _is_address(text) else text.partition(":")[0]
    address = "127.0.0.1" if host.lower() == "localhost" else host
    if _is_address(address) and not is_public(address):
        raise ConfigError(f"{shortened(text)} is not of the internet, and nothing else is connected to")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Fetcher:
    """Fetches pictures.

    Args:
        hosts: That may be asked, each as `HOST` (ports 80 and 443) or `HOST:PORT`.
        max_bytes: Of one picture.
        timeout_s: For all of it, from resolving the name to the last byte.
        may_connect: Whether an address may be connected to.
    """

    def __init__(
        self,
        hosts: Collection[str],
        max_bytes: int,
        timeout_s: float,
        may_connect: Callable[[str], bool] = is_public,
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._may_connect = may_connect
        self._threads = ThreadPoolExecutor(NUM_FETCHERS, thread_name_prefix="fetcher")
        self.places = asyncio.Semaphore(NUM_FETCHERS)
        """To be held from before a picture is fetched until it is decoded."""

    async def fetch(self, remote: Remote) -> bytes:
        """The picture's bytes.

        Raises:
            InvalidInput: Its host is not allowed, or it cannot be had; says why.
        """
        fetch = _Fetch(remote.url, self._hosts, self._max_bytes, self._timeout_s, logs.traceparent())
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._threads, fetch.run, self._may_connect)
        except TimeoutError as error:
            raise InvalidInput(f"{fetch.name} did not come within {self._timeout_s:g} s") from error
        finally:
            fetch.abort()  # else a host that sends a byte now and then would keep the thread

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Fetch:
    """One picture on its way."""

    def __init__(self, url: str, hosts: Collection[str], max_bytes: int, timeout_s: float, traceparent: str) -> None:
        self.name = f"the picture at {shortened(url)}"
        self._scheme, self._host, self._port, self._path = self._take_apart(url, hosts)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._headers = {"Accept": "image/*", "User-Agent": "Kennel"}
        if traceparent:
            self._headers["traceparent"] = traceparent
        self._socket: socket.socket | None = None
        self._is_aborted = False

    def run(self, may_connect: Callable[[str], bool]) -> bytes:
        """Fetch it; to be called in a thread."""
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.default_port = PORTS[self._scheme]  # else Host says a port that is nobody's business
        try:
            connection.sock = self._connect(may_connect)
            connection.request("GET", self._path, headers=self._headers)
            return self._read(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InvalidInput(f"{self.name} cannot be fetched: {type(error).__name__}") from error
        finally:
            connection.close()
            if self._socket:
                self._socket.close()  # which is not the connection's yet where connecting failed

    def abort(self) -> None:
        """Wake the thread up, if it still waits for the host."""
        self._is_aborted = True
        if self._socket:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _take_apart(self, url: str, hosts: Collection[str]) -> tuple[str, str, int, str]:
        if not hosts:
            raise InvalidInput("pictures are not fetched here: --url-hosts names the hosts they may come from")
        try:
            parts = urlsplit(url)
            port = parts.port or PORTS.get(parts.scheme, 0)
            host = (parts.hostname or "").encode("idna").decode()
        except ValueError as error:  # also what idna refuses
            raise InvalidInput(f"{self.name} is no URL: {error}") from error
        is_plain = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme not in PORTS or not host or parts.username is not None or not is_plain:
            raise InvalidInput(f"{self.name} is no URL of http or https without a user, in ASCII")
        if f"{host}:{port}" not in hosts and not (host in hosts and port in PORTS.values()):
            raise InvalidInput(f"{self.name} is at {shortened(f'{host}:{port}')}, which is not among --url-hosts")
        path = parts.path or "/"
        return parts.scheme, host, port, f"{path}?{parts.query}" if parts.query else path

    def _connect(self, may_connect: Callable[[str], bool]) -> socket.socket:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        if not all(may_connect(str(address[0])) for *_, address in found):
            raise InvalidInput(f"{self.name} is at an address that is not of the internet")
        family, kind, protocol, _, address = found[0]
        connection = self._socket = socket.socket(family, kind, protocol)
        connection.settimeout(self._timeout_s)
        if self._is_aborted:
            raise TimeoutError
        connection.connect(address)
        if self._scheme == "https":
            connection = self._socket = ssl.create_default_context().wrap_socket(connection, server_hostname=self._host)
        return connection

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        if response.status != 200:
            moved = response.getheader("Location") if 300 <= response.status < 400 else None
            to = f", which says it is at {shortened(moved)}: send that URL" if moved else ""
            raise InvalidInput(f"{self.name} was answered with {response.status}{to}")
        data = response.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise InvalidInput(f"{self.name} has more than the {self._max_bytes} bytes that are accepted")
        if response.length:
            raise InvalidInput(f"{self.name} was cut short: {response.length} bytes are missing")
        return data
