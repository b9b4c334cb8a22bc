"""Everything that turns the bytes of a picture into a label. Knows nothing of training."""

import os

# ONNX Runtime tells its makers about models and machines unless this is set before it is loaded; it also leaves a file
# in the temporary folder (microsoft/onnxruntime pull request 27379).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
