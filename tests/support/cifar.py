"""Packs images into CIFAR-10's python batches, in the bytes that Python 2 wrote them in or in today's."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def original_pickle(data: NDArray[np.uint8], labels: Sequence[int]) -> bytes:
    """A batch opcode by opcode as the original files have it: protocol 2, byte strings, numpy.core.multiarray."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value  # SHORT_BINSTRING

    def integer(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little")

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + b"K\x00\x85" + text(b"b") + b"\x87R("  # MARK
        + b"K\x01" + integer(data.shape[0]) + integer(data.shape[1]) + b"\x86"
        + b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb" + b"\x89" + b"T" + len(data.tobytes()).to_bytes(4, "little")
        + data.tobytes() + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}(" + text(b"batch_label") + text(b"one") + text(b"labels") + numbers + text(b"data") + array + b"u."
    )


def write_batches(
    folder: Path, images: NDArray[np.uint8], labels: Sequence[int], *, num_test: int, protocol: int | None = None
) -> Path:
    """Write FOLDER/{data_batch_1, data_batch_2, test_batch, batches.meta}.

    Args:
        folder: Where to.
        images: (N, 32, 32, 3); the last `num_test` are the test batch.
        labels: (N,)
        num_test: How many.
        protocol: Of pickle; None: the original's bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    middle, end = (len(rows) - num_test) // 2, len(rows) - num_test
    parts = {"data_batch_1": slice(0, middle), "data_batch_2": slice(middle, end), "test_batch": slice(end, None)}
    for name, part in parts.items():
        data, numbers = np.ascontiguousarray(rows[part]), list(labels[part])
        packed = {b"data": data, b"labels": numbers, b"batch_label": name.encode()}
        content = original_pickle(data, numbers) if protocol is None else pickle.dumps(packed, protocol=protocol)
        (folder / name).write_bytes(content)
    (folder / "batches.meta").write_bytes(
        pickle.dumps({b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072}, protocol=protocol or 2)
    )
    return folder
