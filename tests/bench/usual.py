"""The script that people copy, and the same with what a careful person would change: what train is measured against.

Reads a line from its input for each epoch, so that a bench can take turns with it; prints a JSON object for each, and
one for the test split when the input ends.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from components.model import MEAN, STD

BATCH_SIZE = 32


class Script:
    """A frozen ResNet-18 with a new head, the whole network in every epoch.

    `is_strong`: the backbone runs under no_grad in channels-last, and two workers decode.
    """

    def __init__(self, data: Path, weights: Path, lr: float, is_strong: bool) -> None:
        transform = Compose([Resize((224, 224)), ToTensor(), Normalize(MEAN, STD)])
        workers = 2 if is_strong else 0
        folders = {split: ImageFolder(str(data / split), transform) for split in ("train", "valid", "test")}
        self._loaders = {
            split: DataLoader(folder, BATCH_SIZE, shuffle=split == "train", num_workers=workers)
            for split, folder in folders.items()
        }
        self._is_strong = is_strong
        self._model = models.resnet18()
        self._model.load_state_dict(load_file(weights))
        for parameter in self._model.parameters():
            parameter.requires_grad = False
        self._head = nn.Linear(self._model.fc.in_features, len(folders["train"].classes))
        self._model.fc = nn.Identity() if is_strong else self._head
        if is_strong:
            self._model.eval().to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.Adam(self._head.parameters(), lr=lr)
        self._criterion = nn.CrossEntropyLoss()

    def train(self) -> float:
        """An epoch; returns its mean loss."""
        if not self._is_strong:
            self._model.train()
        total = 0.0
        for images, targets in self._loaders["train"]:
            self._optimizer.zero_grad()
            loss = self._criterion(self._forward(images), targets)
            loss.backward()
            self._optimizer.step()
            total += loss.item() * len(targets)
        return total / self.count("train")

    def evaluate(self, split: str) -> tuple[float, float]:
        """Loss and accuracy."""
        self._model.eval()
        loss = correct = 0.0
        with torch.no_grad():
            for images, targets in self._loaders[split]:
                logits = self._forward(images)
                loss += self._criterion(logits, targets).item() * len(targets)
                correct += float((logits.argmax(1) == targets).sum())
        return loss / self.count(split), correct / self.count(split)

    def count(self, split: str) -> int:
        """Images of a split."""
        return len(self._loaders[split].dataset)  # type: ignore[arg-type]  # a folder has a length

    def _forward(self, images: Tensor) -> Tensor:
        if not self._is_strong:
            logits: Tensor = self._model(images)
            return logits
        with torch.no_grad():
            features = self._model(images.to(memory_format=torch.channels_last))
        return self._head(features)  # type: ignore[no-any-return]  # a module answers a tensor


def main() -> None:
    """Take turns: a line in, an epoch, a line out."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--strong", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    script = Script(given.data, given.weights, given.lr, given.strong)
    print(json.dumps({"start_s": time.perf_counter() - started}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        loss = script.train()
        trained = time.perf_counter()
        _, accuracy = script.evaluate("valid")
        done = {
            "train_loss": loss,
            "valid_accuracy": accuracy,
            "images_per_s": script.count("train") / (trained - started),
        }
        print(json.dumps({"epoch_s": time.perf_counter() - started, **done}), flush=True)
    started = time.perf_counter()
    _, accuracy = script.evaluate("test")
    print(json.dumps({"test_s": time.perf_counter() - started, "test_accuracy": accuracy}), flush=True)


if __name__ == "__main__":
    main()
