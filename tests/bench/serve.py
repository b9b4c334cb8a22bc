"""`make bench-serve`: Kennel's server and its peers on the same photographs, weights and machine, in one run.

Servers take turns: in each round each is started, asked over 1, 8 and 32 connections, asked again beside a process that
burns a core, and stopped. What bounds them all (the bare engine, matrix multiplication, decoding) has its turn, too.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from serving.machine import num_cpus
from serving.preprocess import preprocess
from tests.bench import baselines, figures, load, pictures, servers, weights
from tests.bench.figures import CONNECTIONS, Round
from tests.bench.servers import SERVERS, Server

NUM_PHOTOGRAPHS: Final = 32
WARM_UP_S: Final = 3
MOST: Final = max(CONNECTIONS)


@dataclass(frozen=True)
class Bench:
    """What all rounds share."""

    folder: Path
    jpegs: list[bytes]
    seconds: float

    @property
    def weights(self) -> Path:
        """See `weights.write`."""
        return self.folder / "weights"

    def bodies(self, server: Server) -> list[Path]:
        """Files with the photographs as this server wants to be sent them."""
        folder = self.folder / f"bodies-{server.name}"
        folder.mkdir(exist_ok=True)
        found = [folder / f"{number:02}" for number in range(len(self.jpegs))]
        for path, jpeg in zip(found, self.jpegs, strict=True):
            if not path.exists():
                path.write_bytes(server.body(jpeg))
        return found

    def round(self, server: Server) -> Round:
        """Start, ask, stop."""
        bodies = self.bodies(server)
        with servers.running(server, self.weights, self.folder / server.name, self.jpegs[0]) as running:

            def ask(connections: int, seconds: float = self.seconds) -> load.Load:
                return load.run(running.url, server.content_type, bodies, connections, seconds)

            ask(8, WARM_UP_S)
            loads = {number: ask(number) for number in CONNECTIONS if number != MOST}
            with load.Pings(running.port, server.health) as pings:
                loads[MOST] = ask(MOST)
            memory = running.memory()
            with load.burner():
                burnt = ask(8)
        return Round(running.start_s, loads, pings.p99_ms, pings.max_ms, memory, burnt)

    def best_labels(self, server: Server) -> list[str]:
        """The label that it gives each photograph."""
        with servers.running(server, self.weights, self.folder / server.name, self.jpegs[0]) as running:
            return [running.best_label(jpeg) for jpeg in self.jpegs]


def main() -> int:
    """Measure, and print a table."""
    given = _arguments()
    wanted = given.only.split(",") if given.only else [server.name for server in SERVERS]
    chosen = [server for server in SERVERS if server.name in wanted]
    if unknown := set(wanted) - {server.name for server in SERVERS}:
        print(
            f"error: --only got {', '.join(sorted(unknown))}, expected some of {', '.join(_names())}", file=sys.stderr
        )
        return 2
    if lacking := servers.missing(chosen):
        print(f"error: {lacking}", file=sys.stderr)
        return 1
    for server in chosen:
        servers.install(server)
    with tempfile.TemporaryDirectory(prefix="kennel-bench-") as made:
        result = measure(Path(made), chosen, given.rounds, given.seconds)
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _names() -> list[str]:
    return [server.name for server in SERVERS]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--only", help=f"some of the servers, with commas between: {','.join(_names())}")
    parser.add_argument("--output", type=Path, help="JSON file for everything that was measured")
    return parser.parse_args()


def measure(folder: Path, chosen: Sequence[Server], rounds: int, seconds: float) -> dict[str, object]:
    """Take turns, print what came out, and return all of it."""
    bench = Bench(folder, pictures.jpegs(NUM_PHOTOGRAPHS, pictures.photographs()), seconds)
    print(f"making a ResNet-50 of random weights for {len(weights.LABELS)} labels, and its bundle", flush=True)
    bench.weights.mkdir()
    bundle = weights.write(bench.weights, bench.jpegs)
    pixels = np.stack([preprocess(jpeg, weights.SPEC) for jpeg in bench.jpegs])
    chosen = agreeing(bench, chosen)
    measured: dict[str, list[Round]] = {}
    bounds: list[dict[str, float]] = []
    for number in range(1, rounds + 1):
        bounds.append(baselines.measure(bundle, pixels, bench.jpegs, min(seconds, 5)))
        print(f"round {number} of {rounds}: {_bounds_line(bounds[-1])}", flush=True)
        for server in chosen:
            try:
                one = bench.round(server)
            except RuntimeError as error:
                print(f"round {number} of {rounds}: {server.title} FAILED: {error}", flush=True)
                continue
            measured.setdefault(server.name, []).append(one)
            print(f"round {number} of {rounds}: {_round_line(server, one)}", flush=True)
    return report(measured, bounds, seconds)


def agreeing(bench: Bench, chosen: Sequence[Server]) -> list[Server]:
    """Ask every server about every photograph; those that do not start are told of and left out."""
    kept, expected = [], None
    for server in chosen:
        try:
            labels = bench.best_labels(server)
        except RuntimeError as error:
            print(f"{server.title} does not start and is LEFT OUT: {error}", flush=True)
            continue
        kept.append(server)
        expected = expected or labels
        same = sum(label == other for label, other in zip(labels, expected, strict=True))
        about = f"{len(set(labels))} different ones"
        print(f"{server.title}: {same} of {len(labels)} labels are those of {kept[0].title} ({about})", flush=True)
    return kept


def report(measured: dict[str, list[Round]], bounds: list[dict[str, float]], seconds: float) -> dict[str, object]:
    """Print the tables; everything that was measured."""
    summaries = {name: figures.summarise(rounds) for name, rounds in measured.items()}
    bound, image = figures.medians(bounds), baselines.image_mb()
    judged = figures.judge(summaries, bound, None if isinstance(image, str) else image)
    print(f"\nResNet-50, JPEGs of 500x375 px, {num_cpus()} cores, {len(bounds)} rounds of {seconds:g} s, medians")
    print(figures.table(summaries, {server.name: server.title for server in SERVERS}))
    print(f"\nbounds, medians: {_bounds_line(bound)}")
    if isinstance(image, str):
        print(f"the size of the cpu image was not measured: {image}")
    print("\nfigures")
    print("\n".join(figure.line() for figure in judged))
    return {
        "cores": num_cpus(),
        "seconds": seconds,
        "rounds": {name: [asdict(one) for one in rounds] for name, rounds in measured.items()},
        "servers": {name: asdict(summary) for name, summary in summaries.items()},
        "bounds": bounds,
        "image_mb": image,
        "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in judged],
    }


def _bounds_line(found: dict[str, float]) -> str:
    engine, matmul = found["onnx_batch_8_images_per_s"], found["matmul_images_per_s"]
    # Decoding takes the cores from the engine for as long as it lasts.
    with_decoding = 1 / (1 / engine + found["preprocess_ms"] / 1e3 / num_cpus())
    return (
        f"engine {found['onnx_batch_1_images_per_s']:.1f} / {engine:.1f} images/s at batch 1 / 8 "
        f"({engine / matmul:.0%} of the {matmul:.1f} that matrix multiplication allows), with decoding "
        f"{with_decoding:.1f} (computed); int8 {found['onnx-int8_batch_1_images_per_s']:.1f} / "
        f"{found['onnx-int8_batch_8_images_per_s']:.1f}; decode and resize {found['preprocess_ms']:.1f} ms, "
        f"of 3000x2250 px {found['camera_preprocess_ms']:.0f} ms; others kept {found['busy_cores']:.1f} cores busy"
    )


def _round_line(server: Server, one: Round) -> str:
    rates = " / ".join(f"{one.loads[number].requests_per_s:.1f}" for number in CONNECTIONS)
    p50 = " / ".join(f"{one.loads[number].p50_ms:.0f}" for number in CONNECTIONS)
    p99 = " / ".join(f"{one.loads[number].p99_ms:.0f}" for number in CONNECTIONS)
    return (
        f"{server.title}: {rates} requests/s at 1 / 8 / 32 connections, p50 {p50} ms, p99 {p99} ms, ping at most "
        f"{one.ping_max_ms:.0f} ms, {one.memory.pss_mb:.0f} MB, start {one.start_s:.1f} s, beside a burner "
        f"{one.burnt.requests_per_s:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
