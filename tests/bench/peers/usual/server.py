"""The usual script: FastAPI, PIL, torchvision's transforms, eager torch."""

import io

import classifier
from fastapi import FastAPI, Request
from PIL import Image

app = FastAPI()
network = classifier.load()


@app.get("/ping")
async def ping():
    return {"status": "ok"}


@app.post("/predict")
async def predict(request: Request):
    image = Image.open(io.BytesIO(await request.body()))
    return classifier.classify(network, classifier.prepare(image).unsqueeze(0))[0]
