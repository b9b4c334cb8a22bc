"""AWS's API answered on loopback by moto, for processes of their own: they are pointed to it by AWS_ENDPOINT_URL."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpx
from moto.server import ThreadedMotoServer

ACCOUNT: Final = "123456789012"
REGION: Final = "us-east-1"


@dataclass(frozen=True)
class Aws:
    """An AWS that knows one account."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a process takes it for AWS."""
        return without_aws() | {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
        }


def without_aws() -> dict[str, str]:
    """This process's environment with nothing in it that says who one is on AWS."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return kept | nowhere | {"AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def aws() -> Iterator[Aws]:
    """Run an empty AWS until the block ends."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        running = Aws(f"http://{host}:{port}")
        httpx.post(f"{running.url}/moto-api/reset")  # moto's state belongs to this process, not to the server
        yield running
    finally:
        server.stop()
