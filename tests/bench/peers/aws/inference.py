"""The functions that SageMaker's inference toolkit asks of a model's code."""

import io
import json

import classifier
from PIL import Image


def model_fn(model_dir):
    return classifier.load()


def input_fn(input_data, content_type):
    return classifier.prepare(Image.open(io.BytesIO(input_data))).unsqueeze(0)


def predict_fn(data, model):
    return classifier.classify(model, data)[0]


def output_fn(prediction, accept):
    return json.dumps(prediction), "application/json"
