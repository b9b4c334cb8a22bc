"""BentoML with adaptive batching: one worker, requests' pictures in a form."""

import bentoml
import classifier
import torch
from PIL.Image import Image


@bentoml.service(workers=1, traffic={"timeout": 120})
class Classifier:
    def __init__(self) -> None:
        self.network = classifier.load()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60000)
    def predict(self, images: list[Image]) -> list[dict]:
        return classifier.classify(self.network, torch.stack([classifier.prepare(image) for image in images]))
