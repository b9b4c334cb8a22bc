"""SageMaker's inference toolkit in front of multi-model-server, as AWS's own containers start them."""

import os

from sagemaker_inference import model_server

# A container writes it to /etc; a bench has no business there.
model_server.MMS_CONFIG_FILE = f"{os.environ['TMPDIR']}/mms.properties"

if __name__ == "__main__":
    model_server.start_model_server()
