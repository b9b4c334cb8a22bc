"""LitServe with its own batching: one worker, which decodes and computes, a request's file in a form.

Two workers of one thread were slower on an idle machine, and so was waiting longer for a batch.
"""

import sys

import classifier
import litserve
import torch
from PIL import Image


class Classifier(litserve.LitAPI):
    def setup(self, device):
        self.network = classifier.load()

    def decode_request(self, request):
        return classifier.prepare(Image.open(request["content"].file))

    def batch(self, inputs):
        return torch.stack(inputs)

    def predict(self, batch):
        return classifier.classify(self.network, batch)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=8, batch_timeout=0.01)
    server = litserve.LitServer(api, accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
