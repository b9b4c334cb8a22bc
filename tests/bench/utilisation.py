"""How busy a GPU is while something runs on it."""

import statistics
import subprocess
import threading
from typing import Self


class Utilisation:
    """The median of what nvidia-smi says once a second while a block runs, in percent."""

    def __enter__(self) -> Self:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop=1"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self._lines.extend(self._process.stdout or []), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        # The first and the last second are half outside the block.
        self.percent = statistics.median(map(int, self._lines[1:-1] or self._lines or ["0"]))
