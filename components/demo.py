"""`make demo`: the whole path on handwritten digits, on this machine, without network, Docker or an AWS account.

Knows the stages only as processes and the server only by HTTP, as any user does.
"""

import argparse
import csv
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from components.data.digits import write_digits

COMMON_FLAGS: Final = (
    "--arch", "resnet18", "--weights", "none", "--freeze", "none", "--image-size", "32",
    "--augment", "none", "--duplicates", "keep", "--weight-decay", "0.05",
)  # fmt: skip
SPACE: Final = '{"lr": {"type": "continuous", "min": 0.0005, "max": 0.005, "scale": "log"}}'
SEARCH_FLAGS: Final = ("--space", SPACE, "--trials", "4", "--epochs", "2", "--pruner", "none")
EPOCHS: Final = "6"
MIN_ACCURACY: Final = 0.95
READY_WITHIN_S: Final = 60.0
CLOSE_CALL: Final = 1e-4
"""Two labels this near in probability may change places with the batch they are computed in; such are counted."""


def main(arguments: Sequence[str]) -> int:
    """Run the demo; returns 0 only when everything came out as promised."""
    parser = argparse.ArgumentParser(prog="demo", description="Digits to a served model, on this machine.")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything goes (default demo)")
    folder: Path = parser.parse_args(arguments).folder
    started = time.perf_counter()
    data, search, model = folder / "digits", folder / "tune", folder / "model"

    _title(1, "Images: scikit-learn's handwritten digits as a folder of JPEGs")
    print(f"{write_digits(data)} images in {data}/{{train,valid,test}}/{{zero..nine}}")

    _title(2, "Tune: a small search for the learning rate")
    tune = ("-m", "components.tune", "--data", str(data), "--output-dir", str(search), *COMMON_FLAGS, *SEARCH_FLAGS)
    if _run(tune) != 0:
        return _failed("the search failed: see above")

    _title(3, "Train with what it found")
    found = ("--hyperparameters", str(search / "best_hyperparameters.json"), "--epochs", EPOCHS)
    if _run(("-m", "components.train", "--data", str(data), "--model-dir", str(model), *found)) != 0:
        return _failed("training failed: see above")

    _title(4, "Serve")
    try:
        problem = _serve_and_ask(data, model)
    except (httpx.HTTPError, subprocess.CalledProcessError) as error:
        return _failed(f"the server did not answer as expected: {error}")
    if problem:
        return _failed(problem)
    _ending(folder, time.perf_counter() - started)
    return 0


def _serve_and_ask(data: Path, model: Path) -> str:
    """Returns what is wrong, or nothing."""
    with _server(model, _free_port()) as url:
        _title(5, "Ask, with curl")
        _curl(next(iter(sorted((data / "test" / "seven").glob("*.jpg")))), url)
        _title(6, "Compare: the whole test split over HTTP against what train recorded")
        return compare(data, model, url) or _too_low(model)


def _run(arguments: Sequence[str]) -> int:
    print(f"$ python {shlex.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, *arguments], check=False).returncode


@contextmanager
def _server(model: Path, port: int) -> Iterator[str]:
    arguments = ["-m", "serving", "serve", "--model", str(model), "--port", str(port), "--host", "127.0.0.1"]
    print(f"$ python {shlex.join(arguments)}", flush=True)
    process = subprocess.Popen([sys.executable, *arguments])
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/ping", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    sys.exit(_failed("the server did not become ready: see above"))


def _curl(image: Path, url: str) -> None:
    command = [
        "curl", "--noproxy", "*", "--silent", "--show-error", "--fail-with-body",
        "-X", "POST", "--data-binary", f"@{image}",
        "-H", "Content-Type: image/jpeg", f"{url}/invocations",
    ]  # fmt: skip
    print(f"$ {shlex.join(command)}", flush=True)
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for place, prediction in enumerate(json.loads(answer)["predictions"], start=1):
        bar = "#" * round(40 * prediction["probability"])
        print(f"  {place}. {prediction['label']:<6} {prediction['probability']:7.2%} {bar}")


def compare(data: Path, model: Path, url: str) -> str:
    """Post every test image and compare with what train recorded; returns what is wrong, or nothing."""
    with (model / "predictions.csv").open(newline="") as file:
        recorded = {row["file"]: row for row in csv.DictReader(file)}
    images = sorted((data / "test").rglob("*.jpg"))
    names = {image.relative_to(data).as_posix() for image in images}
    if names != recorded.keys():
        return f"{len(names)} test images and {len(recorded)} recorded ones are not the same files"
    differing, close_calls, correct = [], 0, 0
    with httpx.Client(trust_env=False) as client:
        for done, image in enumerate(images, start=1):
            row = recorded[image.relative_to(data).as_posix()]
            best, second = _ask(client, url, image)
            correct += best["label"] == row["label"]
            if best["label"] != row["predicted"]:
                is_close = best["probability"] - second["probability"] < CLOSE_CALL
                close_calls += is_close
                differing += [] if is_close else [row["file"]]
            if done % 100 == 0 or done == len(images):
                print(f"  {done} of {len(images)}", flush=True)
    accuracy = correct / len(images)
    promised = json.loads((model / "bundle.json").read_text())["metrics"]["test_accuracy"]
    print(
        f"  labels that differ: {len(differing)}; too close to call: {close_calls}; "
        f"test accuracy over HTTP: {accuracy:.4f}, in bundle.json: {promised:.4f}"
    )
    if differing:
        return f"served and recorded labels differ for {len(differing)} images, the first is {differing[0]}"
    if abs(accuracy - promised) * len(images) > close_calls + 0.5:
        return f"test accuracy is {accuracy:.4f} over HTTP and {promised:.4f} in bundle.json"
    return ""


def _ask(client: httpx.Client, url: str, image: Path) -> list[dict[str, Any]]:
    headers = {"Content-Type": "image/jpeg", "X-Amzn-SageMaker-Custom-Attributes": "top_k=2"}
    answer = client.post(f"{url}/invocations", content=image.read_bytes(), headers=headers)
    answer.raise_for_status()
    predictions: list[dict[str, Any]] = answer.json()["predictions"]
    return predictions


def _too_low(model: Path) -> str:
    accuracy: float = json.loads((model / "bundle.json").read_text())["metrics"]["test_accuracy"]
    return "" if accuracy >= MIN_ACCURACY else f"test accuracy is {accuracy:.4f}, expected at least {MIN_ACCURACY}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _title(number: int, text: str) -> None:
    print(f"\n== {number}/6 {text}", flush=True)


def _failed(problem: str) -> int:
    print(f"\nerror: {problem}", file=sys.stderr)
    return 1


def _ending(folder: Path, seconds: float) -> None:
    data, search, model = folder / "digits", folder / "tune", folder / "model"
    output = model.with_name(f"{model.name}.output")
    print(f"""
All of it came out as promised, in {seconds:.0f} s.

  {data}/            the images
  {search}/              tuning.html, trials.csv, best_hyperparameters.json
  {model}/             the bundle: what a server needs, nothing else
  {output}/      curves.html, confusion_matrix.html, metrics.jsonl

What to try next:
  your own images     .venv/bin/python -m components.train --data DIR --model-dir out/model
                      DIR holds train/, valid/ and test/, each with a folder for each label; train/ alone will do
  a search of yours   .venv/bin/python -m components.tune --data DIR --preset dogs-resnet18 --output-dir out/tune
  serve them          .venv/bin/python -m serving serve --model out/model --port 8080
  in Docker           make build up      (then: curl -X POST --data-binary @{next((data / "test").rglob("*.jpg"))} \\
                      -H 'Content-Type: image/jpeg' localhost:8080/invocations)
  on SageMaker        make build push    (then start a training job with the image kennel-training)""")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
