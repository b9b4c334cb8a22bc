"""Kennel's server and its peers: how each is installed, started, asked and stopped, and how much memory it holds."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).parents[2]
PEERS: Final = Path(__file__).with_name("peers")
BOUNDARY: Final = "kennel-bench-boundary"
DEADLINE_S: Final = 180.0
STOP_S: Final = 15.0
POLL_S: Final = 0.01
PORTS: Final = range(20000, 32000)  # multi-model-server takes none above 32767

Command = Callable[[Path, Path, int], list[str]]
"""Folder of the weights, folder for the server's own files, port."""


@dataclass(frozen=True)
class Server:
    """One that answers a JPEG with labels."""

    name: str
    title: str
    command: Command
    route: str = "/predict"
    health: str = "/ping"
    form_field: str | None = None
    """Pictures are sent in a form, under this name; None: as they are."""
    needs_java: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_kennel(self) -> bool:
        """Whether it is ours."""
        return self.name.startswith("kennel")

    @property
    def content_type(self) -> str:
        """Of its requests."""
        return "image/jpeg" if self.form_field is None else f"multipart/form-data; boundary={BOUNDARY}"

    def body(self, jpeg: bytes) -> bytes:
        """A request with this picture."""
        if self.form_field is None:
            return jpeg
        head = f'Content-Disposition: form-data; name="{self.form_field}"; filename="photograph.jpg"'
        return b"\r\n".join(
            [
                f"--{BOUNDARY}\r\n{head}\r\nContent-Type: image/jpeg\r\n".encode(),
                jpeg,
                f"--{BOUNDARY}--\r\n".encode(),
            ]
        )


@dataclass(frozen=True)
class Memory:
    """Of all processes of a server, in MB (10^6 bytes)."""

    pss_mb: float
    """Pages that processes share are counted once, and those shared with strangers in part."""
    rss_mb: float
    """Pages that processes share are counted as often as they are shared."""


@dataclass(frozen=True)
class Running:
    """A server that has answered."""

    server: Server
    port: int
    root: int
    """The process that was started."""
    start_s: float
    """From the start of its process to the first photograph answered."""

    @property
    def url(self) -> str:
        """Where photographs go."""
        return f"http://127.0.0.1:{self.port}{self.server.route}"

    def best_label(self, jpeg: bytes) -> str:
        """The label that it gives a photograph."""
        headers = {"Content-Type": self.server.content_type}
        answer = httpx.post(self.url, content=self.server.body(jpeg), headers=headers, timeout=DEADLINE_S)
        return best_label(answer.raise_for_status().json())

    def memory(self) -> Memory:
        """What it holds now."""
        pss_kb = rss_kb = 0
        for process in processes(self.root):
            with suppress(OSError, ValueError):  # it has just ended
                lines = (Path("/proc") / str(process.number) / "smaps_rollup").read_text().splitlines()
                sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
                pss_kb, rss_kb = pss_kb + int(sizes["Pss"]), rss_kb + int(sizes["Rss"])
        return Memory(pss_kb * 1024 / 1e6, rss_kb * 1024 / 1e6)


def best_label(answer: Any) -> str:
    """Of the answers that servers give: a list of one, `predictions` best first, or a probability for each label."""
    if isinstance(answer, list):
        return best_label(answer[0])
    if "predictions" in answer:
        return str(answer["predictions"][0]["label"])
    return str(max(answer, key=answer.__getitem__))


@dataclass(frozen=True)
class Process:
    """One process; its number alone may be another's later."""

    number: int
    started: int
    """In ticks of the kernel's clock."""


def processes(root: int) -> set[Process]:
    """What the process `root` started: its session, whoever is their parent now, and all their descendants.

    multi-model-server's starter ends before its server does; BentoML's workers have sessions of their own.
    """
    parents, found = {}, set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has just ended
                state, parent, _, session, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
                process = Process(int(entry.name), int(rest[15]))
                if state != "Z":
                    parents[process] = int(parent)
                    if int(session) == root:
                        found.add(process)
    while new := {process for process, parent in parents.items() if parent in {one.number for one in found}} - found:
        found |= new
    return found


@contextmanager
def running(server: Server, weights: Path, folder: Path, jpeg: bytes) -> Iterator[Running]:
    """Start a server, wait until it answers `jpeg`, and stop all of it when the block ends.

    Raises:
        RuntimeError: It does not answer in time, or ended.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    port = free_port()
    with (folder / "log").open("wb") as log:
        command = server.command(weights, folder, port)
        variables = _environment(server, weights, folder, port)
        cwd = ROOT if server.is_kennel else folder
        started = time.perf_counter()
        # A session of its own: multi-model-server's processes outlive the one that was started.
        process = subprocess.Popen(
            command, cwd=cwd, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(server, port, jpeg, process, folder / "log")
        yield Running(server, port, process.pid, time.perf_counter() - started)
    finally:
        stop(process)


def free_port() -> int:
    """One that nobody listens on, and that no client is given by the kernel in the meantime."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


def _environment(server: Server, weights: Path, folder: Path, port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KENNEL_", "SAGEMAKER_", "TS_"))}
    own = {"TMPDIR": str(folder), "TEMP": str(folder), "BENCH_MODEL": str(weights), "DO_NOT_TRACK": "1"}
    if not server.is_kennel:
        own |= {"PYTHONPATH": str(PEERS), "PATH": f"{environment(server.name) / 'bin'}:{os.environ['PATH']}"}
    return kept | own | {name: value.format(folder=folder, port=port) for name, value in server.variables.items()}


def _wait(server: Server, port: int, jpeg: bytes, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    body, headers = server.body(jpeg), {"Content-Type": server.content_type}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:
        while time.monotonic() < deadline and process.poll() in {None, 0}:
            with suppress(httpx.TransportError):
                if client.post(server.route, content=body, headers=headers).status_code == 200:
                    return
            time.sleep(POLL_S)
    ending = f"ended with code {process.poll()}" if process.poll() else f"did not answer within {DEADLINE_S} s"
    raise RuntimeError(f"{server.title} {ending}; its log ends:\n{log.read_text(errors='replace')[-3000:]}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End all that it started, those first that listen to reason."""
    started: set[Process] = set()
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        started |= processes(process.pid)
        deadline = time.monotonic() + STOP_S
        told: set[Process] = set()
        while (alive := {one for one in started if is_alive(one)}) and time.monotonic() < deadline:
            for one in alive - told:
                with suppress(ProcessLookupError):
                    os.kill(one.number, signal_number)
            told |= alive
            time.sleep(POLL_S)
            process.poll()
            started |= processes(process.pid)  # multi-model-server starts anew what has ended
    process.wait()


def is_alive(process: Process) -> bool:
    """Whether it runs; what has ended and was not yet asked after does not."""
    try:
        state, *rest = (Path("/proc") / str(process.number) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return state != "Z" and int(rest[18]) == process.started


def cache() -> Path:
    """Where the peers' environments lie: $KENNEL_BENCH_CACHE, else kennel-bench in the user's cache folder."""
    given = os.environ.get("KENNEL_BENCH_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kennel-bench"


def environment(name: str) -> Path:
    """The virtual environment of a peer."""
    return cache() / name


def install(server: Server) -> None:
    """Install a peer from its lock, unless that very lock is installed already.

    Raises:
        RuntimeError: It cannot be installed.
    """
    if server.is_kennel:
        return
    lock, venv = PEERS / server.name / "requirements.txt", environment(server.name)
    installed = venv / "installed.txt"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    print(f"installing {server.title} into {venv}", flush=True)
    venv.parent.mkdir(parents=True, exist_ok=True)
    command = [str(ROOT / "containers" / "install.sh"), "lock", str(ROOT / ".venv"), str(lock), str(venv)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{server.title} cannot be installed: {done.stdout}{done.stderr}")
    shutil.copy(lock, installed)


def missing(servers: list[Server]) -> str:
    """A sentence on system packages that are needed and not there; empty when all are."""
    needed = {"wrk": "wrk"} | ({"java": "openjdk-17-jre-headless"} if any(s.needs_java for s in servers) else {})
    lacking = [name for name in needed if shutil.which(name) is None]
    packages = " ".join(needed[name] for name in lacking)
    return f"{' and '.join(lacking)} is needed and not there: apt-get install {packages}" if lacking else ""


def _kennel(*flags: str) -> Command:
    def command(weights: Path, folder: Path, port: int) -> list[str]:
        model = ["--model", str(weights / "bundle"), "--host", "127.0.0.1", "--port", str(port)]
        return [sys.executable, "-m", "serving", "serve", *model, *flags]

    return command


def _usual(weights: Path, folder: Path, port: int) -> list[str]:
    uvicorn = str(environment("usual") / "bin" / "uvicorn")
    return [uvicorn, "--app-dir", str(PEERS / "usual"), "server:app", "--port", str(port), "--no-access-log"]


def _litserve(weights: Path, folder: Path, port: int) -> list[str]:
    return [str(environment("litserve") / "bin" / "python"), str(PEERS / "litserve" / "server.py"), str(port)]


def _bentoml(weights: Path, folder: Path, port: int) -> list[str]:
    command = str(environment("bentoml") / "bin" / "bentoml")
    source = ["--working-dir", str(PEERS / "bentoml")]
    return [command, "serve", "server:Classifier", "--host", "127.0.0.1", "--port", str(port), *source]


def _torchserve(weights: Path, folder: Path, port: int) -> list[str]:
    """Pack an archive with the vision handler that TorchServe brings, and write a configuration."""
    binaries = environment("torchserve") / "bin"
    names = json.loads((weights / "labels.json").read_text())
    (folder / "index_to_name.json").write_text(json.dumps({str(place): name for place, name in enumerate(names)}))
    archive = ["--model-name", "classifier", "--version", "1.0", "--handler", "image_classifier"]
    archive += ["--model-file", str(PEERS / "torchserve" / "model.py"), "--export-path", str(folder)]
    archive += ["--serialized-file", str(weights / "weights.pth")]
    archive += ["--extra-files", str(folder / "index_to_name.json")]
    subprocess.run([str(binaries / "torch-model-archiver"), *archive], check=True, capture_output=True)
    settings = (PEERS / "torchserve" / "config.properties").read_text()
    for word in ("PORT", "MANAGEMENT", "METRICS", "GRPC_A", "GRPC_B"):
        settings = settings.replace(f"@{word}@", str(port if word == "PORT" else free_port()))
    (folder / "config.properties").write_text(settings)
    command = ["--start", "--foreground", "--disable-token-auth", "--ncs", "--model-store", str(folder)]
    return [str(binaries / "torchserve"), *command, "--ts-config", str(folder / "config.properties")]


def _aws(weights: Path, folder: Path, port: int) -> list[str]:
    code = folder / "model" / "code"
    code.mkdir(parents=True)
    shutil.copy(PEERS / "aws" / "inference.py", code)
    return [str(environment("aws") / "bin" / "python"), str(PEERS / "aws" / "server.py")]


_AWS_VARIABLES: Final = {
    "SAGEMAKER_BASE_DIR": "{folder}",
    "SAGEMAKER_BIND_TO_PORT": "{port}",
    # The toolkit listens on all addresses; multi-model-server lets its environment win.
    "MMS_INFERENCE_ADDRESS": "http://127.0.0.1:{port}",
    "MMS_MANAGEMENT_ADDRESS": "http://127.0.0.1:{port}",
}
SERVERS: Final = (
    Server("kennel", "Kennel", _kennel(), "/invocations"),
    Server("kennel-int8", "Kennel, int8", _kennel("--engine", "onnx-int8"), "/invocations"),
    Server("usual", "the usual script", _usual),
    Server("litserve", "LitServe", _litserve, health="/health", form_field="content"),
    Server("bentoml", "BentoML", _bentoml, health="/livez", form_field="images"),
    Server("torchserve", "TorchServe", _torchserve, "/predictions/classifier", needs_java=True),
    Server("aws", "AWS's toolkit", _aws, "/invocations", needs_java=True, variables=_AWS_VARIABLES),
)
FRAMEWORKS: Final = ("litserve", "bentoml", "torchserve", "aws")
"""The peers that are server frameworks."""
