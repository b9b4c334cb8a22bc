"""What a GPU makes of serving: bfloat16 from captured graphs, against the same graphs without a server around them.

Prints images/s of a bare loop that replays a graph, of the engine (which copies pixels in and logits out), and of
eager float32; then of Kennel's server and of the script that people write, asked for JPEGs over 32 connections. Of
each answer it takes apart where the time went, and of each server how busy the GPU was.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import torch

from serving import bundle as bundles
from serving.bundle import Bundle
from serving.engines.torch_cuda import CudaRunner
from serving.engines.torch_engine import TorchEngine, load_network
from serving.preprocess import Pixels, preprocess
from tests.bench import pictures
from tests.bench.utilisation import Utilisation
from tests.support.servers import ROOT, clean_environment, serving, wait_for

NUM_PICTURES: Final = 200
NUM_CLIENTS: Final = 4
"""One alone would be asked to do more than the server."""
PHASES: Final = ("decode", "queue", "model")
"""Of Server-Timing."""
SETTLED_S: Final = 3.0


@dataclass(frozen=True)
class Load:
    """What clients saw that ask again as soon as they are answered."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    phases_ms: dict[str, float]
    """Medians; `rest` is HTTP, waiting for a decoder, and everything else."""
    percent_busy: float
    """The GPU, NaN where there is none."""


def bare_loop(bundle: Bundle, pixels: Pixels, seconds: float, *, with_graph: bool) -> float:
    """Images/s of the network on the GPU alone: in bfloat16 from a graph, or in float32 as eager torch runs it."""
    if not with_graph:
        network, device = load_network(bundle, torch.float32), "cuda" if torch.cuda.is_available() else "cpu"
        network, lying = network.to(device), torch.tensor(pixels, device=device)
        return _images_per_s(lambda: network(lying), _wait_for_gpu, len(pixels), seconds)
    runner = CudaRunner(load_network(bundle, torch.bfloat16), torch.bfloat16)
    with runner.queue():
        lying = torch.tensor(pixels, device=runner.device)
        replay = runner.prepare(lambda: runner.forward(lying))
        return _images_per_s(replay, runner.wait, len(pixels), seconds)


def _images_per_s(step: Callable[[], object], wait: Callable[[], object], batch_size: int, seconds: float) -> float:
    for _ in range(3):
        step()
    wait()
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        for _ in range(10):
            step()
        wait()
        count += 10 * batch_size
    return count / (time.perf_counter() - started)


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_engine(bundle: Bundle, jpegs: Sequence[bytes], batch_size: int, seconds: float) -> None:
    """Print how fast a batch runs bare, through the engine, and eagerly."""
    spec = bundle.manifest.input
    pixels = np.stack([preprocess(jpegs[place % len(jpegs)], spec) for place in range(batch_size)])
    engine = TorchEngine(bundle, os.cpu_count() or 1, batch_size)
    with torch.inference_mode():
        rates = {"eager, float32": bare_loop(bundle, pixels, seconds, with_graph=False)}
        if torch.cuda.is_available():
            rates["graph, nothing else"] = bare_loop(bundle, pixels, seconds, with_graph=True)
    rates["the engine"] = _images_per_s(lambda: engine.infer(pixels), lambda: None, batch_size, seconds)
    best = max(rates.values())
    for name, rate in rates.items():
        each_ms = 1000 * batch_size / rate
        print(f"  batch {batch_size:3}  {name:20} {rate:8.0f} images/s  {each_ms:7.2f} ms a batch  {rate / best:6.1%}")


def ask(url: str, folder: Path, connections: int, seconds: float) -> None:
    """As a process of its own: ask over so many connections, and print a line of JSON for each answer."""
    bodies = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    address, deadline = urlsplit(url), time.monotonic() + seconds
    answers: list[tuple[int, float, str]] = []

    def keep_asking(place: int) -> None:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        while time.monotonic() < deadline:
            body, started = bodies[place % len(bodies)], time.perf_counter()
            connection.request("POST", "/invocations", body, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            answers.append((answer.status, time.perf_counter() - started, answer.getheader("Server-Timing", "")))
            place += connections

    threads = [Thread(target=keep_asking, args=(place,)) for place in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for status, latency_s, timing in answers:
        phases = {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", timing)}
        print(json.dumps({"status": status, "latency_ms": 1000 * latency_s, **phases}))


def load(url: str, folder: Path, connections: int, seconds: float) -> Load:
    """Ask from several processes at once.

    Raises:
        RuntimeError: Something else than a 200 came back.
    """
    command = [sys.executable, "-m", "tests.bench.serve_gpu", "--ask", url, "--folder", str(folder)]
    command += ["--connections", str(connections // NUM_CLIENTS), "--seconds", str(seconds)]
    utilisation = Utilisation() if torch.cuda.is_available() else None
    with utilisation or nullcontext():
        asking = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(NUM_CLIENTS)]
        lines = [line for one in asking for line in one.communicate()[0].splitlines()]
    answers: list[dict[str, Any]] = [json.loads(line) for line in lines]
    if not answers or any(answer["status"] != 200 for answer in answers):
        raise RuntimeError(f"{url} answered {sorted({answer['status'] for answer in answers})}, expected 200 alone")
    latencies = sorted(answer["latency_ms"] for answer in answers)
    phases = {name: statistics.median(answer.get(name, 0.0) for answer in answers) for name in PHASES}
    rests = [answer["latency_ms"] - sum(answer.get(name, 0.0) for name in PHASES) for answer in answers]
    return Load(
        requests_per_s=len(answers) / seconds,
        p50_ms=statistics.median(latencies),
        p99_ms=latencies[int(0.99 * (len(latencies) - 1))],
        phases_ms=phases | {"rest": statistics.median(rests)},
        percent_busy=utilisation.percent if utilisation else float("nan"),
    )


@contextmanager
def usual_server(model: Path, log: Path) -> Iterator[str]:
    """The script that people write, ready, until the block ends."""
    command = [sys.executable, "-m", "uvicorn", "tests.bench.usual_gpu:app", "--port", "0", "--no-access-log"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(BENCH_MODEL=str(model)), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        found = wait_for(lambda: re.search(r"running on (http://\S+)", log.read_text()), "uvicorn's address in its log")
        yield found[1]
    finally:
        process.kill()
        process.wait()


def measure_servers(bundle: Bundle, folder: Path, given: argparse.Namespace) -> None:
    """Take turns, then print what came out."""
    loads: dict[str, list[Load]] = {"Kennel, torch": [], "the script that people write": []}
    flags = ["--engine", "torch", "--max-batch-size", str(given.max_batch_size), "--max-queue-size", "256"]
    for _ in range(given.rounds):
        with serving(bundle.folder, folder / "kennel.log", *flags) as server:
            server.wait_until_ready()
            load(server.url, folder / "jpegs", given.connections, SETTLED_S)
            loads["Kennel, torch"].append(load(server.url, folder / "jpegs", given.connections, given.seconds))
        with usual_server(bundle.folder, folder / "usual.log") as url:
            load(url, folder / "jpegs", given.connections, SETTLED_S)
            loads["the script that people write"].append(load(url, folder / "jpegs", given.connections, given.seconds))
    print(f"over HTTP, {given.connections} connections, medians of {given.rounds} rounds:")
    for name, measured in loads.items():
        one = sorted(measured, key=lambda load: load.requests_per_s)[len(measured) // 2]
        print(
            f"  {name:30} {one.requests_per_s:7.0f} requests/s  p50 {one.p50_ms:6.1f} ms  p99 {one.p99_ms:6.1f} ms"
            f"  GPU {one.percent_busy:3.0f} % busy"
        )
        if any(one.phases_ms[phase] for phase in PHASES):
            print("    " + "  ".join(f"{phase} {ms:.1f} ms" for phase, ms in one.phases_ms.items()))


def make_bundle(folder: Path, architecture: str) -> Bundle:
    """One that the train stage made of a few pictures, and JPEGs to ask with.

    Raises:
        RuntimeError: It could not be trained.
    """
    data = pictures.cut(folder / "data", NUM_PICTURES, pictures.photographs())
    (folder / "jpegs").mkdir()
    for number, path in enumerate(sorted(data.rglob("*.jpg"))):
        (folder / "jpegs" / f"{number}.jpg").write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "components.train", "--data", str(data), "--model-dir", str(folder / "model")]
    command += ["--cache-dir", str(folder / "cache"), "--arch", architecture, "--weights", "none", "--freeze", "none"]
    command += ["--epochs", "1", "--batch-size", "16"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return bundles.read(folder / "model")


def main() -> int:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--batch-sizes", default="1,8,32")
    parser.add_argument("--max-batch-size", type=int, default=32, help="of the server")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-gpu", action="store_true", help="try the bench itself, on the CPU")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        ask(given.ask, given.folder, given.connections, given.seconds)
        return 0
    if not torch.cuda.is_available() and not given.without_gpu:
        print("error: no GPU is found here; this bench is for a machine with one", file=sys.stderr)
        return 1
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    with tempfile.TemporaryDirectory(prefix="kennel-bench-") as made:
        bundle = make_bundle(Path(made), given.arch)
        print(
            f"{device}, {os.cpu_count()} processors, {given.arch}, JPEGs of {pictures.SIZE[0]} x {pictures.SIZE[1]} px"
        )
        jpegs = [path.read_bytes() for path in sorted((Path(made) / "jpegs").iterdir())[: given.max_batch_size]]
        for batch_size in map(int, given.batch_sizes.split(",")):
            measure_engine(bundle, jpegs, batch_size, given.seconds)
        measure_servers(bundle, Path(made), given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
