"""Who may import whom: read from the source, so that also imports inside functions count."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for room in ("serving", "components") for path in (ROOT / room).rglob("*.py"))
HTTP_SIDE = {
    "app",
    "batching",
    "readers",
    "writers",
    "headers",
    "arrays",
    "admission",
    "failures",
    "labelling",
    "logs",
    "metrics",
    "middleware",
    "model",
    "models",
    "openapi",
    "protocol",
    "remote",
    "routes",
    "service",
    "tensors",
    "server",
    "settings",
    "__main__",
}
TORCH = {"torch", "torchvision", "safetensors"}
OF_A_SEARCH = {f"components.tune.{module}" for module in ("space", "objective", "settings", "trials")}
CLOUD = {"boto3", "botocore", "docker", "sagemaker", "kubernetes", "kfp"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST, path: Path) -> Iterator[str]:
    """Full names of everything imported below `tree`; `from a import b` counts as both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).parts[: -node.level]) if node.level else ""
            module = ".".join(part for part in (package, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported(path: Path) -> set[str]:
    return set(imports(ast.parse(path.read_text()), path))


def roots(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def test_there_is_something_to_look_at() -> None:
    assert {"serving/app.py", "serving/engines/torch_engine.py", "components/train/loop.py"} <= set(map(name, SOURCES))
    assert "serving.bundle" in imported(ROOT / "serving/model.py")


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_serving_knows_nothing_of_components_and_torch_stays_in_its_own_files(path: Path) -> None:
    if name(path).startswith("serving/"):
        assert "components" not in roots(imported(path))
        assert not TORCH & roots(imported(path)) or name(path).startswith("serving/engines/torch_")


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_components_use_nothing_of_servings_http_side(path: Path) -> None:
    if name(path).startswith("components/"):
        assert not {f"serving.{module}" for module in HTTP_SIDE} & imported(path)
        assert not {"fastapi", "starlette", "uvicorn"} & roots(imported(path))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_cloud_clients_are_imported_below_aws_alone_and_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if not CLOUD & roots(set(imports(tree, path))):
        return
    assert name(path).startswith("components/aws/")
    typing_only = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    at_import = [node for node in tree.body if node not in typing_only]
    for node in at_import:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            assert not CLOUD & roots(set(imports(node, path)))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_training_loop_names_no_observer(path: Path) -> None:
    if name(path) == "components/train/loop.py":
        assert not {"components.train.observers", "components.train.checkpoint"} & imported(path)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_training_imports_neither_of_its_drivers(path: Path) -> None:
    if name(path).startswith("components/train/"):
        assert not [module for module in imported(path) if module.startswith(("components.tune", "components.profile"))]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_optuna_is_imported_below_tune_alone(path: Path) -> None:
    if not name(path).startswith("components/tune/"):
        assert "optuna" not in roots(imported(path))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_driver_is_imported_by_what_stands_beside_it_for_its_space_alone(path: Path) -> None:
    """Launchers and pages read search spaces, objectives and trials; what searches is a stage's own."""
    if name(path).startswith("components/tune/"):
        return
    found = {module for module in imported(path) if module.startswith("components.tune.")}
    assert {".".join(module.split(".")[:3]) for module in found} <= OF_A_SEARCH


def test_tune_is_a_driver_of_train() -> None:
    of_tune = [imported(path) for path in SOURCES if name(path).startswith("components/tune/")]
    assert any("components.train.loop" in modules for modules in of_tune)
    assert any("optuna" in modules for modules in of_tune)


@pytest.mark.parametrize("module", ["space", "objective", "settings", "trials"])
def test_what_launchers_read_of_a_search_needs_neither_torch_nor_optuna(module: str) -> None:
    code = (
        f"import sys, components.tune.{module}, components.aws.ranges, components.kubeflow.katib\n"
        "sys.exit(', '.join({'torch', 'optuna', 'boto3'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
