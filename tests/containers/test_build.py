import os
import re
import shutil
import uuid
from pathlib import Path

import pytest

from tests.support import engine
from tests.support.engine import OWN_IMAGES, ROOT, Made
from tests.support.figures import RecordFigure

pytestmark = pytest.mark.docker

MAX_CPU_IMAGE_BYTES = 400_000_000
PREFIX = "kenneltest"
SECRET = f"{PREFIX}-secret"
NOBODY = "http://127.0.0.1:9/nobody"  # port 9 discards: nobody answers there
PIP_CONF = f"[global]\nindex-url = {NOBODY}\nretries = 0\n"


def steps(log: str) -> dict[str, str]:
    """Instruction of each build step in a plain log, and how it ended: CACHED or DONE."""
    names = dict(re.findall(r"^(#\d+) \[\w[^\]]*\] (.+)$", log, re.MULTILINE))
    ends = dict(re.findall(r"^(#\d+) (CACHED|DONE)", log, re.MULTILINE))
    return {name: ends[number] for number, name in names.items() if number in ends}


def copy_of_the_tree(folder: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", ".dockerignore"):
        shutil.copy2(ROOT / name, folder)
    for name in ("containers", "components", "serving"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def build_with_secret(name: str, path: Path, *flags: str) -> None:
    file = f"{ROOT}/containers/serving/Dockerfile"
    secret = f"id={name},src={path}"
    base = [f"--build-arg=BASE={os.environ['BASE']}"] if os.environ.get("BASE") else []
    engine.docker(
        "build", "--file", file, "--target=cpu", "--secret", secret, "--tag", SECRET, *base, *flags, str(ROOT)
    )


def test_an_edited_python_file_leaves_the_install_steps_cached(
    images: Made, tmp_path: Path, record_figure: RecordFigure
) -> None:
    root = copy_of_the_tree(tmp_path)
    for file in ("serving/errors.py", "components/environment.py"):
        with (root / file).open("a") as source:
            source.write(f"\n# {uuid.uuid4()}\n")  # an edit the build cache has never seen
    logs = []
    try:
        for target in ("serving-cpu", "training-cuda"):
            built = engine.make(
                "build", root=root, timeout_s=engine.BUILD_TIMEOUT_S, variables={"PREFIX": PREFIX, "TARGETS": target}
            )
            assert built.code == 0, built.output
            record_figure(f"make build TARGETS={target} after an edited Python file: {built.seconds:.0f} s")
            logs.append(built.output)
    finally:
        stale = engine.docker("image", "ls", "--quiet", "--filter", f"reference={PREFIX}-*").split()
        engine.docker("image", "rm", "--force", *set(stale))
    for log in logs:
        found = steps(log)
        installs = [end for step, end in found.items() if "install.sh lock" in step]
        assert installs
        assert set(installs) == {"CACHED"}
        assert found["COPY serving/ serving/"] == "DONE"
    assert steps(logs[1])["COPY components/ components/"] == "DONE"


def test_the_cpu_image_holds_no_torch_and_is_small(images: Made, record_figure: RecordFigure) -> None:
    files = engine.export("kennel-serving:cpu")
    record_figure(f"kennel-serving:cpu: {files.num_bytes / 1e6:.0f} MB by docker export")
    assert any(path.endswith("/onnxruntime/__init__.py") for path in files.paths)
    assert [
        path for path in files.paths if re.search(r"/(torch|torchvision|nvidia|triton)(/|-|$)|libtorch", path)
    ] == []
    assert files.num_bytes <= MAX_CPU_IMAGE_BYTES


def test_the_launcher_image_holds_no_torch(images: Made, record_figure: RecordFigure) -> None:
    files = engine.export("kennel-training:launcher")
    record_figure(f"kennel-training:launcher: {files.num_bytes / 1e6:.0f} MB by docker export")
    assert any(path.endswith("/boto3/__init__.py") for path in files.paths)
    assert [path for path in files.paths if "/torch/" in path] == []


@pytest.mark.parametrize("image", OWN_IMAGES)
def test_history_environment_and_labels_name_no_index_host_and_no_secret(images: Made, image: str) -> None:
    said = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    said += engine.docker("inspect", "--format", "{{json .Config}}", image)
    assert (
        re.findall(r"https?://\S+|index.url|AWS_\w+|password|passwd|token|ca_bundle|pip_conf", said, re.IGNORECASE)
        == []
    )


@pytest.mark.parametrize("image", OWN_IMAGES)
def test_images_say_what_they_are(images: Made, image: str) -> None:
    labels = engine.docker("inspect", "--format", "{{json .Config.Labels}}", image)
    assert '"org.opencontainers.image.version":"0.1.0"' in labels
    assert re.search(r'"org.opencontainers.image.revision":"([0-9a-f]{40}(-dirty)?)?"', labels)
    is_serving = "kennel-serving" in image
    for capability in ("accept-bind-to-port", "multi-models"):
        assert (f'"com.amazonaws.sagemaker.capabilities.{capability}":"true"' in labels) is is_serving


def test_latest_is_cpu_for_serving_and_cuda_for_training(images: Made) -> None:
    for name, tag in (("serving", "cpu"), ("training", "cuda")):
        ids = engine.docker("inspect", "--format", "{{.Id}}", f"kennel-{name}:latest", f"kennel-{name}:{tag}").split()
        assert ids[0] == ids[1]


def test_serving_and_training_share_the_gigabytes(images: Made) -> None:
    def layers(image: str) -> set[str]:
        return set(engine.docker("inspect", "--format", '{{join .RootFS.Layers " "}}', image).split())

    own = layers("kennel-training:cuda") - layers("kennel-serving:cuda")
    sizes = engine.docker("history", "--format", "{{.Size}} {{.CreatedBy}}", "kennel-training:cuda")
    gigabytes = [line for line in sizes.splitlines() if line.split()[0].endswith("GB")]
    assert len(gigabytes) == 1
    assert len(own) <= 4  # what training has on top: its packages, two folders of source and their bytecode


@pytest.mark.parametrize(
    ("secret", "content", "stage", "complaint"),
    [
        ("pip_conf", PIP_CONF, "installer", "No matching distribution found for uv"),
        ("pip_conf", PIP_CONF, "cpu", NOBODY),
        (
            "ca_bundle",
            "no certificate",
            "cpu",
            "No valid certificates found in `SSL_CERT_FILE`: /run/secrets/ca_bundle",
        ),
    ],
    ids=["pip-settings-for-pip", "pip-settings-for-uv", "certificates-for-uv"],
)
def test_build_secrets_bear_on_the_installers(
    images: Made, tmp_path: Path, secret: str, content: str, stage: str, complaint: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        build_with_secret(secret, file, f"--no-cache-filter={stage}")


def test_build_secrets_leave_no_trace(images: Made, tmp_path: Path) -> None:
    settings = tmp_path / "pip.conf"
    settings.write_text("# canary-7f3a9c\n[global]\ntimeout = 61\n")
    traces = []
    build_with_secret("pip_conf", settings, "--no-cache")
    try:
        engine.export(SECRET, lambda path, content: traces.append(path) if b"canary-7f3a9c" in content else None)
    finally:
        engine.docker("image", "rm", SECRET)
    assert traces == []


def test_a_secret_that_cannot_be_read_stops_the_build_with_a_sentence() -> None:
    built = engine.make("build", variables={"CA_BUNDLE": "/nowhere/ca.pem"})
    assert built.code != 0
    assert "make build: ca_bundle is to be /nowhere/ca.pem, which cannot be read: give a file" in built.output


def test_without_an_engine_make_build_and_make_up_say_so() -> None:
    for target in ("build", "up"):
        tried = engine.make(target, variables={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
        assert tried.code != 0
        assert f"make {target}: no Docker engine answers: start Docker" in tried.output
