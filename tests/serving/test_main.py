"""The command line, as a person or SageMaker types it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving.app import create_app
from serving.bundle import Bundle
from serving.settings import ServerSettings
from tests.support import forked
from tests.support.servers import ROOT, Server, clean_environment

BLOCK = """
import runpy, sys
for name in {blocked}: sys.modules[name] = None  # what importing it finds
sys.argv = ["serving", *{arguments}]
try: runpy.run_module("serving", run_name="__main__", alter_sys=True)
finally: print("loaded:", *sorted(name for name in sys.modules if sys.modules[name] is not None))
"""


def python(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def kennel(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return python("-m", "serving", *arguments, **variables)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "no command was given, expected serve"),
        (("train",), '"train" is not a command, expected serve'),
        (("serve", "--prot", "1"), "--prot is not a flag of python -m serving serve, did you mean --port?"),
        (("serve", "--port", "http"), '--port got "http", expected a whole number'),
        (("serve", "--port", "99999"), '--port got "99999", expected a whole number at least 0 and at most 65535'),
        (("serve", "--engine", "tpu"), '--engine got "tpu", expected one of onnx, onnx-int8, torch'),
        (("serve", "out/model"), "out/model is not a flag"),
        (
            ("serve", "--host", "192.0.2.1"),
            "cannot listen on 192.0.2.1 port 8080: Cannot assign requested address; --host takes an address of this",
        ),
        (("serve", "--host", "no host"), "; --host takes an address of this machine"),
        (("serve", "--port", "8082", "--management-port", "8082"), "--port and --management-port are both 8082"),
        (("serve", "--url-hosts", "https://example.com/"), "'https://example.com/' is no HOST or HOST:PORT"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_1(arguments: tuple[str, ...], sentence: str) -> None:
    done = kennel(*arguments)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert sentence in last
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_port_in_use_is_one_sentence_and_exit_code_1(server: Server) -> None:
    done = kennel("serve", "--host", "127.0.0.1", "--port", str(server.port))
    assert done.returncode == 1
    expected = f"cannot listen on 127.0.0.1 port {server.port}: Address already in use; choose another with --port"
    assert done.stderr.splitlines()[-1].endswith(expected)
    assert "Traceback" not in done.stderr


def test_a_wrong_variable_is_one_sentence_and_exit_code_1() -> None:
    done = kennel("serve", KENNEL_MAX_BATCH_SIZE="many")
    assert done.returncode == 1
    assert "KENNEL_MAX_BATCH_SIZE" in done.stderr
    assert "Traceback" not in done.stderr


def test_decoding_on_a_gpu_that_is_not_there_is_one_sentence_and_exit_code_1(bundle: Bundle) -> None:
    flags = ("--model", str(bundle.folder), "--host", "127.0.0.1", "--port", "0", "--decode", "nvjpeg")
    environ = clean_environment(CUDA_VISIBLE_DEVICES="")
    done = forked.run(forked.main, "serving", ["serve", *flags], environ=environ)
    assert done.returncode == 1
    (sentence,) = (
        line for line in done.stderr.splitlines() if line.startswith("python -m serving: ")
    )  # beside the log
    assert "JPEGs are decoded by nvJPEG on a GPU alone" in sentence
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_python_still_imports_is_no_traceback(number: signal.Signals) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "serving", "serve", "--model", "/nowhere", "--port", "0"]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1"], cwd=ROOT, env=clean_environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert any(line.rstrip().endswith("serving.errors") for line in process.stderr)
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(60) == 0
    assert "listening" not in rest, "it was stopped too late to show anything"
    assert "Traceback" not in rest


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
def test_help_comes_without_loading_anything_slow(arguments: list[str]) -> None:
    done = python("-c", BLOCK.format(blocked=[], arguments=arguments))
    loaded = done.stdout.rpartition("loaded:")[2].split()
    assert done.returncode == 0
    assert "usage: python -m serving serve" in done.stdout
    assert "serving.settings" in loaded
    assert not {"torch", "onnxruntime", "numpy", "PIL", "fastapi", "uvicorn"} & set(loaded)


def test_the_server_imports_without_torch_and_without_anything_of_training(bundle: Bundle) -> None:
    """In a Python where importing them fails, the application loads and its model answers the golden inputs."""
    blocked = ["torch", "torchvision", "onnx", "safetensors", "components", "boto3", "docker", "httpx"]
    script = f"""
import sys
for name in {blocked}: sys.modules[name] = None
from pathlib import Path
import serving.__main__, serving.server
from serving.app import create_app
from serving.models import Models
from serving.settings import ServerSettings
models = Models(ServerSettings(model=Path({str(bundle.folder)!r})))
create_app(ServerSettings(), models)
models.start()
models.close().result()
print(models.require().manifest.labels[0])
"""
    done = python("-c", script)
    assert done.stderr == ""
    assert done.stdout.split() == ["ant"]


def test_the_torch_engine_where_there_is_no_torch_is_said_in_one_line_and_ping_stays_bad(bundle: Bundle) -> None:
    script = f"""
import logging, sys
sys.modules["torch"] = None
logging.basicConfig(format="%(levelname)s %(message)s")
from pathlib import Path
from serving.errors import NotReady
from serving.models import Models
from serving.settings import ServerSettings
models = Models(ServerSettings(model=Path({str(bundle.folder)!r}), engine="torch"))
models.start()
models.close().result()
try: models.require()
except NotReady as error: print(error)
"""
    done = python("-c", script)
    assert "ERROR model not loaded: engine 'torch' needs torch" in done.stderr
    assert "/ping stays 503 until a reload" in done.stderr
    assert "Traceback" not in done.stderr
    assert "could not be loaded" in done.stdout


def test_an_application_can_be_made_without_a_bundle_or_a_port() -> None:
    """The image's build does so, as a smoke check."""
    app = create_app(ServerSettings(model=Path("/nowhere")))
    assert app.title == "Kennel"
