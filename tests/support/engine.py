"""The Docker engine, through the command that people use: it knows contexts, remote engines and build secrets."""

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).parents[2]
BUILD_TIMEOUT_S: Final = 1500.0
COMMAND_TIMEOUT_S: Final = 240.0
NOTHING: Final[Mapping[str, str]] = {}
OWN_IMAGES: Final = ("kennel-serving:cpu", "kennel-serving:cuda", "kennel-training:cuda", "kennel-training:launcher")


def why_not() -> str:
    """Why no Docker test can run here; empty when an engine answers."""
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return "there is no docker command"
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer within 30 s"
    return "" if answer.returncode == 0 else "no Docker engine answers"


def docker(*arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """Run a docker command that must go well; its standard output."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Made:
    """A make target that ran."""

    code: int
    output: str
    seconds: float


def make(
    *arguments: str, root: Path = ROOT, timeout_s: float = COMMAND_TIMEOUT_S, variables: Mapping[str, str] = NOTHING
) -> Made:
    """Run a target of the Makefile in `root`, with `variables` in its environment."""
    started = time.monotonic()
    # When make runs the tests, its own flags are not for the one that runs here.
    inherited = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    done = subprocess.run(
        ["make", *arguments],
        cwd=root,
        env={**inherited, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Made(done.returncode, done.stdout, time.monotonic() - started)


class Container:
    """A container that was started."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def logs(self) -> str:
        """What it wrote to both streams so far."""
        done = subprocess.run(["docker", "logs", self.name], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout + done.stderr

    def wait_for_line(self, beginning: str) -> None:
        """Return once it has written a line that begins so."""
        command = ["docker", "logs", "--follow", self.name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            found = any(line.startswith(beginning) for line in process.stdout)
            process.kill()
        assert found, self.logs

    def signal(self, name: str) -> None:
        """Send a signal to its first process."""
        docker("kill", "--signal", name, self.name)

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return docker("inspect", "--format", "{{.State.Running}}", self.name) == "true"

    def address(self, port: int = 8080) -> str:
        """URL of a port that was published."""
        return f"http://{docker('port', self.name, str(port)).splitlines()[0]}"

    def python(self, code: str, *arguments: str) -> str:
        """What a Python program prints that runs inside."""
        return docker("exec", self.name, "python", "-c", code, *arguments)

    def wait(self) -> int:
        """Exit code, once it ended."""
        return int(docker("wait", self.name))

    def stop(self, timeout_s: int = 30) -> int:
        """SIGTERM, as every platform sends it; the exit code (137: it had to be killed)."""
        docker("stop", "--time", str(timeout_s), self.name)
        return self.wait()


@contextmanager
def container(image: str, *command: str, options: Sequence[str] = ()) -> Iterator[Container]:
    """Run an image until the block ends, then remove the container."""
    name = docker("run", "--detach", *options, image, *command)
    try:
        yield Container(name)
    finally:
        docker("rm", "--force", "--volumes", name)


@dataclass(frozen=True)
class FileSystem:
    """What `docker export` of an image holds."""

    paths: frozenset[str]
    num_bytes: int


def export(image: str, look_into: Callable[[str, bytes], None] = lambda _path, _content: None) -> FileSystem:
    """Read an image's file system as `docker export` streams it, handing each regular file to `look_into`."""
    name = docker("create", image, "true")
    paths = set()
    try:
        with subprocess.Popen(["docker", "export", name], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            counter = _Counter(process.stdout)
            with tarfile.open(fileobj=counter, mode="r|") as tar:
                for member in tar:
                    paths.add(member.name)
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is not None:
                        look_into(member.name, content.read())
            while counter.read(2**20):  # the padding behind the last member counts as well
                pass
        assert process.returncode == 0
    finally:
        docker("rm", name)
    return FileSystem(frozenset(paths), counter.num_bytes)


class _Counter(io.RawIOBase):
    """A stream that knows how much was read from it."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.num_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._source.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self.num_bytes += len(chunk)
        return len(chunk)
