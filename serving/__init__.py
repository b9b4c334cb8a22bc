"""The serving image: a bundle behind SageMaker's `/ping` and `/invocations`. Knows nothing of training."""
