"""What people's notebooks do with AWS's PyTorch container, against a server on a port of this machine.

Run as `python -m tests.support.pytorch_client PORT PHOTOGRAPH`; prints what each kind of client makes of the answer.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import urllib3
from PIL import Image
from sagemaker.deserializers import JSONDeserializer
from sagemaker.local import LocalSession, local_session
from sagemaker.pytorch import PyTorchPredictor
from sagemaker.serializers import IdentitySerializer
from torchvision import transforms


class Pool(urllib3.PoolManager):
    """The SDK's local client takes any answer for a prediction: the status is looked at here."""

    def request(self, *args: Any, **options: Any) -> urllib3.BaseHTTPResponse:
        answer = super().request(*args, **options)
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {answer.data.decode()}")
        return answer


def main(port: int, photograph: Path) -> dict[str, Any]:
    """Index, or whole answer, by kind of client."""
    local_session.get_docker_host = lambda: "127.0.0.1"  # where the port is published; "localhost" may be elsewhere
    session = LocalSession()
    session.sagemaker_runtime_client.serving_port = port
    session.sagemaker_runtime_client.http = Pool()
    predictor = PyTorchPredictor("endpoint", session)
    image = Image.open(photograph)
    steps = transforms.Compose([transforms.Resize(224), transforms.ToTensor()])
    tensor = steps(image).unsqueeze(0)
    row = (
        np.asarray(image.resize((32, 32)).convert("RGB")).transpose(2, 0, 1).reshape(3072)
    )  # as CIFAR-10's files hold it
    as_jpeg = PyTorchPredictor("endpoint", session, IdentitySerializer("image/jpeg"), JSONDeserializer())
    return {
        "shape": list(tensor.shape),
        "floats": predictor.predict(tensor.numpy()).tolist(),
        "list": predictor.predict(tensor.double().tolist()).tolist(),
        "row": predictor.predict(row.reshape(3, 32, 32)).tolist(),
        "jpeg": as_jpeg.predict(photograph.read_bytes()),
    }


if __name__ == "__main__":
    sys.excepthook = sys.__excepthook__  # the SDK's own prints to stdout
    print("ANSWERS " + json.dumps(main(int(sys.argv[1]), Path(sys.argv[2]))))
