"""SageMaker's inference toolkit in front of multi-model-server, as AWS's own containers start them.

It starts a worker for each core, each with torch's default of threads: one worker, or one thread each, was slower.
"""

import os

from sagemaker_inference import model_server

# A container writes it to /etc; a bench has no business there.
model_server.MMS_CONFIG_FILE = f"{os.environ['TMPDIR']}/mms.properties"

if __name__ == "__main__":
    model_server.start_model_server()
