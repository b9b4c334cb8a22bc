"""AWS as the launchers use it; boto3 and docker are imported inside functions, so that `--help` needs neither."""
