"""A real registry (Debian's docker-registry) under the host name of an ECR, with TLS and a password, on loopback.

The engine is told of it as of any private registry: a line in /etc/hosts and a certificate below /etc/docker/certs.d,
which it reads with each push, so nothing is restarted. Both go when the registry does.
"""

import datetime as dt
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import bcrypt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.servers import wait_for

HOSTS: Final = Path("/etc/hosts")
CERTIFICATES: Final = Path("/etc/docker/certs.d")
ADDRESS: Final = ("127.0.0.1", 443)
USER: Final = "AWS"


def why_not() -> str:
    """Why no registry can run here; empty when one can."""
    if shutil.which("docker-registry") is None:
        return "docker-registry is not installed (Debian: apt-get install docker-registry)"
    if os.geteuid() != 0:
        return "a registry under another host name needs root: it is written to /etc/hosts"
    return ""


@contextmanager
def registry(host: str, password: str, folder: Path) -> Iterator[None]:
    """Run a registry called `host` that lets `USER` with `password` in, until the block ends."""
    certificate, key = _make_certificate(host, folder)
    (folder / "htpasswd").write_text(f"{USER}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()}\n")
    (folder / "config.yml").write_text(
        f"""version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {folder / "data"}}}}}
auth: {{htpasswd: {{realm: ecr, path: {folder / "htpasswd"}}}}}
http: {{addr: "{ADDRESS[0]}:{ADDRESS[1]}", tls: {{certificate: {certificate}, key: {key}}}}}
"""
    )
    with (folder / "log").open("wb") as log, _known_to_the_engine(host, certificate):
        command = ["docker-registry", "serve", str(folder / "config.yml")]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: _listens(process, folder / "log"), "the registry to listen")
            wait_for(lambda: _is_reached(host, folder / "log"), f"the engine to find {host} here")
            yield
        finally:
            process.terminate()
            process.wait()


def _listens(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with socket.socket() as probe:
        return probe.connect_ex(ADDRESS) == 0


def _is_reached(host: str, log: Path) -> bool:
    """Whether the engine's requests arrive here; for five seconds it believes an earlier /etc/hosts."""
    subprocess.run(["docker", "pull", "--quiet", f"{host}/nothing"], capture_output=True, timeout=60, check=False)
    return "GET /v2/" in log.read_text()


@contextmanager
def _known_to_the_engine(host: str, certificate: Path) -> Iterator[None]:
    line = f"{ADDRESS[0]} {host}\n"
    folder = CERTIFICATES / host
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(certificate, folder / "ca.crt")
    before = HOSTS.read_text().replace(line, "")
    # Written in place: in a container /etc/hosts is a mount, which cannot be replaced.
    HOSTS.write_text(before.rstrip("\n") + "\n" + line)
    try:
        yield
    finally:
        HOSTS.write_text(HOSTS.read_text().replace(line, ""))
        shutil.rmtree(folder)


def _make_certificate(host: str, folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, key_pem
