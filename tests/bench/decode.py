"""`make bench-decode`: how long a JPEG takes to become pixels, and what each short cut does to pixels and logits.

Times are of one call in one thread. The reference is what Pillow and torchvision's transforms do: decode all, resize
all, cut the centre out.
"""

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torchvision.transforms import CenterCrop, InterpolationMode, Resize
from torchvision.transforms.functional import to_tensor

from components.model import input_spec, make_network
from serving import bundle
from serving.arrays import to_pixels
from serving.bundle import Head, InputSpec
from serving.engines.torch_network import Network
from serving.errors import DataError, KennelError
from serving.preprocess import REDUCED_SIDE, Pixels, decode, preprocess
from tests.bench import pictures

CAMERA: Final = (3000, 2250)
USUAL: Final = (500, 375)
"""Width and height, in px."""
QUALITY: Final = 90
GRAIN: Final = 4.0
"""Standard deviation of a sensor's noise, in steps of 255; an enlarged photograph without it is too easy to decode."""
SIZE: Final = 224
BATCH: Final = 16
LABELS: Final = tuple("abcdefghij")


def reference(data: bytes, spec: InputSpec) -> Pixels:
    """What every script does."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return np.asarray(CenterCrop((spec.height, spec.width))(Resize(spec.resize_size)(image)))


def photograph(photo: Image.Image, size: tuple[int, int], seed: int) -> bytes:
    """A JPEG of a random part of a photograph, as a camera might have written it."""
    generator = np.random.default_rng(seed)
    width = generator.uniform(0.5, 1) * min(photo.width, photo.height * size[0] / size[1])
    height = width * size[1] / size[0]
    left, top = generator.uniform(0, photo.width - width), generator.uniform(0, photo.height - height)
    part = photo.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    grain = generator.normal(0, GRAIN, (size[1], size[0], 1))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(part) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def measure(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Medians of wall clock and of processor time in ms, the ways taking turns.

    Each in a thread of its own, as the server's decoders are: the C library then keeps their memory apart, and none
    pays for pages that another one gave back.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with ExitStack() as stack:
        threads = {name: stack.enter_context(ThreadPoolExecutor(1)) for name in ways}
        for _ in range(rounds):
            for name, run in ways.items():
                taken[name].append(threads[name].submit(timed, run).result())
    return {
        name: (1000 * statistics.median(wall), 1000 * statistics.median(processor))
        for name, (wall, processor) in ((name, zip(*times, strict=True)) for name, times in taken.items())
    }


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the wall's clock, and of this thread's processor."""
    started, used = time.perf_counter(), time.thread_time()
    run()
    return time.perf_counter() - started, time.thread_time() - used


def report_times(spec: InputSpec, rounds: int) -> None:
    """Print a line for each size and way."""
    photo = pictures.photographs()[0]
    for size in (USUAL, CAMERA):
        data = photograph(photo, size, seed=0)
        ways: dict[str, Callable[[], object]] = {
            "Pillow and torchvision's transforms": partial(reference, data, spec),
            "exact": partial(preprocess, data, spec),
            "reduced": partial(preprocess, data, spec, "reduced"),
        }
        width, height = decode(data, REDUCED_SIDE * spec.resize_size).size
        print(f"{size[0]} x {size[1]} px, {len(data) / 1e6:.2f} MB, reduced to {width} x {height}:")
        for name, (wall_ms, processor_ms) in measure(ways, rounds).items():
            print(f"  {name:<36} {wall_ms:6.1f} ms, of which the processor {processor_ms:6.1f}", flush=True)


def logits(network: Network, batch: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
    """(N, K), of pixels 0..255 that need not be whole numbers."""
    batches = [np.stack(batch[start : start + BATCH]) for start in range(0, len(batch), BATCH)]
    with torch.inference_mode():
        return torch.cat([network(torch.from_numpy(part.astype(np.float32))) for part in batches]).numpy()


def floats(data: bytes, spec: InputSpec) -> NDArray[np.float32]:
    """What a client sends that resizes in floats: 0..1, (H, W, 3), not yet cropped."""
    tensor = to_tensor(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    resized = Resize(spec.resize_size, InterpolationMode.BILINEAR, antialias=True)(tensor)
    return np.ascontiguousarray(resized.clamp(0, 1).permute(1, 2, 0).numpy())


def compare(what: str, network: Network, ours: Sequence[NDArray[np.generic]], theirs: Sequence[Pixels]) -> None:
    """Print how far pixels and logits are apart."""
    pixels = np.abs(np.stack(ours).astype(np.float64) - np.stack(theirs))
    before, after = logits(network, ours), logits(network, theirs)
    difference = np.abs(before - after) / np.abs(before).max()
    changed = float((before.argmax(1) != after.argmax(1)).mean())
    print(
        f"  {what:<44} pixels {pixels.mean():7.4f} mean {pixels.max():6.1f} max; logits {difference.mean():.1e} mean "
        f"{difference.max():.1e} max; first label changed: {changed:.1%}",
        flush=True,
    )


def report_effects(network: Network, spec: InputSpec, photos: Sequence[bytes]) -> None:
    """Print what each short cut does to the photographs."""
    exact = [preprocess(photo, spec) for photo in photos]
    crop = CenterCrop((spec.height, spec.width))
    sent = [floats(photo, spec) for photo in photos]
    unrounded = [crop(torch.from_numpy(array).permute(2, 0, 1)).permute(1, 2, 0).numpy() * 255 for array in sent]
    print(f"{len(photos)} photographs; pixels in steps of 255, logits relative to the largest:")
    compare("exact, against the reference", network, [reference(photo, spec) for photo in photos], exact)
    compare("reduced, against exact", network, exact, [preprocess(photo, spec, "reduced") for photo in photos])
    compare(
        "floats rounded to pixels, against floats", network, unrounded, [to_pixels(one, spec, "unit") for one in sent]
    )


def load(model: Path | None) -> tuple[Network, InputSpec]:
    """The network of a bundle; without one, a ResNet-18 of random weights."""
    if model is None:
        torch.manual_seed(0)
        spec = input_spec(SIZE)
        network = make_network("resnet18", Head(kind="linear"), LABELS, spec, weights="none", freeze="none")
        print("random weights: what changes in labels says nothing, give --model BUNDLE and --images FOLDER")
        return network.eval(), spec
    with bundle.opened(model) as opened:
        manifest = opened.manifest
        network = Network(manifest.architecture, manifest.head, len(manifest.labels), manifest.input)
        network.load_state_dict(load_file(opened.file(bundle.WEIGHTS)))
    return network.eval(), manifest.input


def read_photographs(folder: Path | None, count: int) -> list[bytes]:
    """The JPEGs below `folder`; without one, `count` that are made.

    Raises:
        DataError: There are none.
    """
    if folder is None:
        originals = pictures.photographs()
        return [photograph(originals[n % len(originals)], CAMERA, seed=n) for n in range(count)]
    photos = [path.read_bytes() for path in sorted(folder.rglob("*.[jJ][pP]*[gG]"))]
    if not photos:
        raise DataError(f"--images {str(folder)!r} holds no JPEG, expected a folder of *.jpg as cameras wrote them")
    return photos


def main(arguments: Sequence[str]) -> int:
    """Print times and effects; returns the exit code."""
    try:
        run(arguments)
    except KennelError as error:
        print(f"make bench-decode: {error}", file=sys.stderr)
        return 1
    return 0


def run(arguments: Sequence[str]) -> None:
    """Print times and effects.

    Raises:
        KennelError: The bundle or the photographs cannot be used; before anything is measured.
    """
    parser = argparse.ArgumentParser(prog="make bench-decode", description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of photographs, *.jpg as cameras wrote them")
    parser.add_argument("--model", type=Path, help="bundle whose logits are compared")
    parser.add_argument("--rounds", type=int, default=30, help="of the measurement of times")
    parser.add_argument("--count", type=int, default=64, help="photographs that are made where none are given")
    given = parser.parse_args(arguments)
    photos = read_photographs(given.images, given.count)
    network, spec = load(given.model)
    report_times(input_spec(SIZE), given.rounds)
    report_effects(network, spec, photos)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
