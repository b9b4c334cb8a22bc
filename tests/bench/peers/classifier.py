"""What the peers' servers share: the network with its weights, the usual transforms, and the five best labels.

The folder in BENCH_MODEL holds weights.pth, a state dict of torchvision's ResNet-50, and labels.json.
"""

import json
import os
from pathlib import Path

import torch
from PIL import Image
from torchvision import models, transforms

FOLDER = Path(os.environ["BENCH_MODEL"])
LABELS = json.loads((FOLDER / "labels.json").read_text())
TRANSFORM = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def load() -> torch.nn.Module:
    """The network, ready to answer."""
    network = models.resnet50(num_classes=len(LABELS))
    network.load_state_dict(torch.load(FOLDER / "weights.pth", map_location="cpu", weights_only=True))
    return network.eval()


def prepare(image: Image.Image) -> torch.Tensor:
    """(3, 224, 224), normalised."""
    return TRANSFORM(image.convert("RGB"))


def classify(network: torch.nn.Module, batch: torch.Tensor) -> list[dict]:
    """For each picture of a batch (N, 3, 224, 224) its five best labels."""
    with torch.inference_mode():
        probabilities, places = network(batch).softmax(dim=1).topk(5)
    return [
        {"predictions": [{"label": LABELS[place], "probability": value} for value, place in zip(*row, strict=True)]}
        for row in zip(probabilities.tolist(), places.tolist(), strict=True)
    ]
