"""A real PostgreSQL of its own, with a password, on this machine alone."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

USER: Final = "kennel"
PASSWORD: Final = "S3cret"  # of a server that lives as long as a test
READY: Final = "ready to accept connections"
START_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.05


def find() -> Path | None:
    """The folder of its programs; None where it is not installed."""
    found = [Path(path) for path in (shutil.which("initdb"),) if path] + sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb")  # where Debian has them
    )
    return found[-1].parent if found else None


class Server:
    """To be started and stopped as often as wanted; what it holds stays."""

    def __init__(self, programs: Path, root: Path) -> None:
        """Make an empty database in `root`, which belongs to whom it runs as."""
        self._programs = programs
        self._root = root
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.port: int = bound.getsockname()[1]
        self._log = root / "log"
        self._process: subprocess.Popen[bytes] | None = None
        (root / "password").write_text(PASSWORD)
        flags = ("--auth=scram-sha-256", f"--username={USER}", f"--pwfile={root}/password", "--no-sync", "--locale=C")
        command = [str(programs / "initdb"), f"--pgdata={root}/data", "--encoding=UTF8", *flags]
        subprocess.run(command, check=True, capture_output=True, cwd=root, **_unprivileged())

    def url(self, database: str = "postgres") -> str:
        """As `--storage` takes it."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Create an empty database; returns its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        return self.url(database)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self._root}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self._root / "data"), "-F", *options]
        with self._log.open("wb") as log:
            process = subprocess.Popen[bytes](command, stdout=log, stderr=log, cwd=self._root, **_unprivileged())
        self._process = process
        for _ in range(int(START_TIMEOUT_S / POLL_S)):
            if READY in self._log.read_text():
                return
            try:
                process.wait(POLL_S)
                break
            except subprocess.TimeoutExpired:
                continue
        raise RuntimeError(f"PostgreSQL does not start: {self._log.read_text()}")

    def stop(self) -> None:
        """Break off all connections and end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None


@contextmanager
def running(programs: Path) -> Iterator[Server]:
    """A server that ends with the block."""
    root = Path(tempfile.mkdtemp(prefix="pg-"))  # short, for its socket, and not below a folder of root's
    try:
        if os.geteuid() == 0:
            shutil.chown(root, *_user())
        server = Server(programs, root)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _unprivileged() -> dict[str, Any]:
    """It refuses to run as root."""
    user, group = _user()
    return {"user": user, "group": group, "extra_groups": []} if os.geteuid() == 0 else {}


def _user() -> tuple[int, int]:
    known = {entry.pw_name: (entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall()}
    return known.get("postgres", known["nobody"])
