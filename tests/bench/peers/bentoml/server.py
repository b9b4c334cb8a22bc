"""BentoML with adaptive batching, requests' pictures in a form.

A worker for each core, with one thread each: with one worker of two threads throughput was a third less.
"""

import bentoml
import classifier
import torch
from PIL.Image import Image


@bentoml.service(workers="cpu_count", traffic={"timeout": 120})
class Classifier:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.network = classifier.load()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60000)
    def predict(self, images: list[Image]) -> list[dict]:
        return classifier.classify(self.network, torch.stack([classifier.prepare(image) for image in images]))
