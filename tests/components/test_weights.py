"""Where the first weights come from, and what is said when they do not fit."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from components.model import input_spec, make_network
from components.weights import find_weights
from serving import bundle
from serving.bundle import Bundle, EngineMetrics, Head, Manifest, Metrics
from serving.engines.torch_network import Network, build_architecture
from serving.errors import BundleError, ConfigError
from tests.support.bundles import pack, write_model

LINEAR = Head(kind="linear")
LABELS = ("ant", "bee", "cat")
CONV = "layer1.0.conv1.weight"


def make(
    weights: Path | str,
    architecture: str = "resnet18",
    labels: tuple[str, ...] = LABELS,
    head: Head = LINEAR,
    size: int = 32,
) -> Network:
    return make_network(architecture, head, labels, input_spec(size), weights=str(weights), freeze="backbone")


def published(architecture: str = "resnet18", size: int = 32) -> dict[str, Tensor]:
    """Weights as torchvision publishes them: of a thousand labels, by the architecture's own names."""
    torch.manual_seed(1)
    return dict(build_architecture(architecture, (size, size)).state_dict())


def as_it_is(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


def of_data_parallel(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def of_another_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")} | {
        "fc.0.weight": torch.zeros(5, 512),
        "fc.2.weight": torch.zeros(133, 5),
    }


def without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def of_a_network(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"body.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("wrap", [as_it_is, of_data_parallel, of_another_head, without_counters, of_a_network])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_weights_is_read_whoever_wrote_it(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Tensor]], suffix: str
) -> None:
    state = published()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(wrap(state), path)
    else:
        save_file(wrap(state), path)
    network = make(path)
    for name, tensor in state.items():
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
            assert torch.equal(network.body.state_dict()[name], tensor), name
    assert network.head.get_parameter("weight").shape == (3, 512)


def test_names_that_torchvision_has_changed_since_are_understood(tmp_path: Path) -> None:
    """As in the published files of DenseNet, which nobody has renamed."""
    densenet = published("densenet121")
    old = {
        re.sub(r"(norm|conv)([12])\.", r"\1.\2.", name) if "denselayer" in name else name: densenet[name]
        for name in densenet
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet.pth")
    name = "features.denseblock4.denselayer16.conv2.weight"
    assert torch.equal(make(tmp_path / "densenet.pth", "densenet121").body.state_dict()[name], densenet[name])


def test_an_old_file_of_a_transformer_is_fitted_to_the_size_of_the_pictures(tmp_path: Path) -> None:
    state = published("vit_b_32", size=224)
    old = {name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): state[name] for name in state}
    assert "encoder.layers.encoder_layer_11.mlp.linear_2.weight" in old
    torch.save(old, tmp_path / "vit.pth")
    network = make(tmp_path / "vit.pth", "vit_b_32", size=64).body.state_dict()
    assert network["encoder.pos_embedding"].shape == (1, 5, 768)
    name = "encoder.layers.encoder_layer_11.mlp.3.weight"
    assert torch.equal(network[name], state[name])


def test_auxiliary_classifiers_in_a_file_are_no_matter(tmp_path: Path) -> None:
    full = models.googlenet(weights=None, init_weights=False, aux_logits=True).state_dict()
    assert any(name.startswith("aux1.") for name in full)
    torch.save(full, tmp_path / "googlenet.pth")
    network = make(tmp_path / "googlenet.pth", "googlenet")
    assert torch.equal(network.body.state_dict()["conv1.conv.weight"], full["conv1.conv.weight"])


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        (
            "resnet50",
            rf"have {re.escape(CONV)} of shape \(64, 64, 3, 3\), resnet50 expects \(64, 64, 1, 1\) \(and \d+ more\)",
        ),
        ("resnet18", r"have layer1\.2\.conv1\.weight of shape \(64, 64, 3, 3\), which resnet18 does not have"),
        ("densenet121", r"have no features\.conv0\.weight, densenet121 expects one of shape \(64, 3, 7, 7\)"),
    ],
)
def test_weights_of_another_architecture_are_refused_with_what_does_not_fit(
    tmp_path: Path, architecture: str, sentence: str
) -> None:
    torch.save(published("resnet34"), tmp_path / "34.pth")
    assert make(tmp_path / "34.pth", "resnet34")
    with pytest.raises(ConfigError, match=sentence):
        make(tmp_path / "34.pth", architecture)


def test_weights_that_carry_code_are_refused_and_not_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"fc.weight": Payload()}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="is not a file of weights"):
        make(tmp_path / "weights.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("weights", ["absent.pth", "imagenet"])
def test_weights_that_do_not_exist_are_named(weights: str) -> None:
    with pytest.raises(
        ConfigError, match=f'--weights got "{weights}", expected default, none, a file of weights, or a'
    ):
        make(weights)


def test_published_weights_without_network_say_what_else_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(
        ConfigError, match=r"resnet18 cannot be downloaded or read .*: give --weights FILE, or --weights none"
    ):
        make("default")


@pytest.fixture
def earlier(tmp_path: Path) -> Bundle:
    """A bundle of a ResNet-18 of `LABELS`. Its graph is another's: only the weights count here."""
    folder = tmp_path / "earlier"
    folder.mkdir()
    torch.manual_seed(2)
    spec = input_spec(32)
    save_file(Network("resnet18", LINEAR, len(LABELS), spec).state_dict(), folder / bundle.WEIGHTS)
    write_model(folder / bundle.ONNX_MODEL, seed=0, num_labels=len(LABELS))
    (folder / bundle.GOLDEN).touch()
    measured = EngineMetrics(test_images=1, test_accuracy=1, test_loss=0, options={})
    metrics = Metrics(test_accuracy=1, valid_accuracy=1, valid_loss=0, engines={"onnx": measured})
    manifest = Manifest(
        architecture="resnet18",
        head=LINEAR,
        labels=LABELS,
        input=spec,
        metrics=metrics,
        hyperparameters={},
        versions={},
        created="2000-01-01T00:00:00+00:00",
    )
    return bundle.write(folder, manifest, [bundle.WEIGHTS, bundle.ONNX_MODEL, bundle.GOLDEN])


def state(made: Bundle) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(made.file(bundle.WEIGHTS))


@pytest.mark.parametrize("form", ["folder", "archive", "folder with the archive"])
def test_a_bundle_of_the_same_labels_gives_backbone_and_head(earlier: Bundle, tmp_path: Path, form: str) -> None:
    (tmp_path / "channel").mkdir()
    packed = pack(earlier.folder, tmp_path / "channel" / bundle.ARCHIVE)
    path = {"folder": earlier.folder, "archive": packed, "folder with the archive": packed.parent}[form]
    for name, tensor in make(path).state_dict().items():
        assert torch.equal(tensor, state(earlier)[name]), name


@pytest.mark.parametrize(
    ("labels", "head", "said"),
    [
        (("ant", "bee", "dog"), LINEAR, "other labels"),
        (("bee", "ant", "cat"), LINEAR, "other labels"),
        (LABELS, Head(kind="mlp", hidden=8), "another head"),
    ],
)
def test_a_bundle_of_other_labels_gives_the_backbone_alone_and_the_log_says_so(
    earlier: Bundle, caplog: pytest.LogCaptureFixture, labels: tuple[str, ...], head: Head, said: str
) -> None:
    with caplog.at_level("INFO"):
        network = make(earlier.folder, labels=labels, head=head)
    assert torch.equal(network.body.state_dict()[CONV], state(earlier)[f"body.{CONV}"])
    heads = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("body.fc.")}
    assert not any(
        name in state(earlier) and torch.equal(tensor, state(earlier)[name]) for name, tensor in heads.items()
    )
    assert f"the backbone of a bundle with {said}; the head starts from nothing" in caplog.text


def test_a_bundle_of_another_architecture_is_refused_with_what_to_say(earlier: Bundle) -> None:
    with pytest.raises(ConfigError, match="holds a resnet18, --arch says resnet34: use --arch resnet18, or other"):
        make(earlier.folder, "resnet34")


def test_a_bundle_that_was_changed_is_refused(earlier: Bundle) -> None:
    with earlier.file(bundle.WEIGHTS).open("ab") as file:
        file.write(b"more")
    with pytest.raises(BundleError, match=r"model\.safetensors.* has \d+ bytes, bundle.json says"):
        make(earlier.folder)


def test_without_a_channel_the_setting_stands() -> None:
    channels = {"train": Path("images")}
    assert [find_weights(value, "resnet18", channels) for value in ("default", "none", "x.pth")] == [
        "default",
        "none",
        "x.pth",
    ]


def test_a_weights_channel_gives_the_file_of_the_architecture(tmp_path: Path) -> None:
    names = ("resnet18-f37072fd.pth", "resnet50-11ad3fa6.pth", "wide_resnet50_2-9ba9bcbe.pth", "readme.txt")
    for name in names:
        (tmp_path / name).touch()
    channels = {"weights": tmp_path}
    assert find_weights("default", "resnet50", channels) == str(tmp_path / "resnet50-11ad3fa6.pth")
    assert find_weights("none", "resnet50", channels) == "none"
    with pytest.raises(
        ConfigError, match=r"the weights channel has to hold one file of weights of vgg16.*resnet18-f37"
    ):
        find_weights("default", "vgg16", channels)


def test_a_single_file_in_the_channel_needs_no_name(tmp_path: Path) -> None:
    (tmp_path / "ours.safetensors").touch()
    assert find_weights("default", "resnet50", {"weights": tmp_path}) == str(tmp_path / "ours.safetensors")


def test_an_empty_channel_is_an_error_and_not_a_download(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="files of weights found: none"):
        find_weights("default", "resnet50", {"weights": tmp_path})


def test_a_model_channel_comes_before_a_weights_channel(earlier: Bundle, tmp_path: Path) -> None:
    (tmp_path / "resnet18.pth").touch()
    channels = {"weights": tmp_path, "model": earlier.folder}
    assert find_weights("default", "resnet18", channels) == str(earlier.folder)


def test_what_lies_in_the_hubs_cache_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = models.get_model_weights("resnet18").DEFAULT.url.rpartition("/")[2]
    cached = tmp_path / "hub" / "checkpoints" / name
    cached.parent.mkdir(parents=True)
    torch.save({"fc.weight": Payload()}, cached)
    with pytest.raises(ConfigError, match="torchvision's weights of resnet18"):
        make("default")
    assert not (tmp_path / "executed").exists()
