"""The server that people write: FastAPI, PIL, torchvision's transforms, eager torch; on a GPU where there is one.

Serves the weights of the bundle in BENCH_MODEL: `uvicorn tests.bench.usual_gpu:app`.
"""

import io
import json
import os
from pathlib import Path

import torch
from fastapi import FastAPI, Request
from PIL import Image
from safetensors.torch import load_file
from torchvision import models, transforms

FOLDER = Path(os.environ["BENCH_MODEL"])
MANIFEST = json.loads((FOLDER / "bundle.json").read_text())
LABELS = MANIFEST["labels"]
TRANSFORM = transforms.Compose(
    [
        transforms.Resize(MANIFEST["input"]["resize_size"]),
        transforms.CenterCrop(MANIFEST["input"]["height"]),
        transforms.ToTensor(),
        transforms.Normalize(MANIFEST["input"]["mean"], MANIFEST["input"]["std"]),
    ]
)

app = FastAPI()
device = "cuda" if torch.cuda.is_available() else "cpu"
network = models.get_model(MANIFEST["architecture"], num_classes=len(LABELS))
weights = load_file(FOLDER / "model.safetensors")
network.load_state_dict({name.removeprefix("body."): value for name, value in weights.items()})
network.eval().to(device)


@app.get("/ping")
async def ping() -> dict[str, str]:
    """Readiness."""
    return {"status": "ok"}


@app.post("/invocations")
async def predict(request: Request) -> dict[str, object]:
    """The five best labels of a picture."""
    image = Image.open(io.BytesIO(await request.body())).convert("RGB")
    with torch.no_grad():
        probabilities = torch.softmax(network(TRANSFORM(image).unsqueeze(0).to(device))[0], dim=0)
    values, places = probabilities.topk(min(5, len(LABELS)))
    return {
        "predictions": [
            {"label": LABELS[place], "probability": value}
            for place, value in zip(places.tolist(), values.tolist(), strict=True)
        ]
    }
