"""The network that train trains: architecture, head, what learns and what stays as it is."""

import logging
from collections.abc import Sequence
from typing import Final, Literal

import torch
from torch import nn
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from components.weights import load_weights
from serving.bundle import Head, InputSpec
from serving.engines.torch_network import Network, Weights, make_head
from serving.errors import ConfigError

logger = logging.getLogger(__name__)

Freeze = Literal["backbone", "last-stage", "none"]
"""What learns: the head; the head and the last stage of the backbone; all."""

# ImageNet's, as torchvision's weights were trained with (torchvision/transforms/_presets.py); from scratch they do too.
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)

LAST_STAGE: Final = {
    # Architecture (or how its name begins) and the first module of its last stage: all that is defined from there on
    # works at the coarsest resolution. A transformer has one resolution; its last block takes the place.
    **dict.fromkeys(("resnet", "resnext", "wide_resnet"), "layer4"),
    "densenet": "features.denseblock4",
    "regnet": "trunk_output.block4",
    "shufflenet": "stage4",
    "mnasnet": "layers.12",
    "efficientnet": "features.6",
    "mobilenet_v2": "features.14",
    "mobilenet_v3_small": "features.9",
    "mobilenet_v3_large": "features.13",
    "googlenet": "inception5a",
    "inception_v3": "Mixed_7a",
    "convnext": "features.6",
    "swin": "features.6",
    "maxvit": "blocks.3",
    "vit_b": "encoder.layers.encoder_layer_11",
    "vit_l": "encoder.layers.encoder_layer_23",
    "vit_h": "encoder.layers.encoder_layer_31",
    "alexnet": "features.6",
    "squeezenet1_0": "features.12",
    "squeezenet1_1": "features.9",
    "vgg11": "features.16",
    "vgg13": "features.20",
    "vgg16": "features.24",
    "vgg19": "features.28",
    "vgg11_bn": "features.22",
    "vgg13_bn": "features.28",
    "vgg16_bn": "features.34",
    "vgg19_bn": "features.40",
}


def input_spec(image_size: int) -> InputSpec:
    """The shorter side becomes `image_size` px, the centre square is what the network sees."""
    return InputSpec(height=image_size, width=image_size, resize_size=image_size, mean=MEAN, std=STD)


def make_network(
    architecture: str,
    head: Head,
    labels: Sequence[str],
    spec: InputSpec,
    *,
    weights: str,
    freeze: Freeze,
    seed: int = 0,
) -> Network:
    """Build the network to train, on the CPU.

    Args:
        architecture: One of torchvision's.
        head: The new classifier.
        labels: K of them, in order.
        spec: What it will see.
        weights: See `components.weights.load_weights`.
        freeze: What does not learn.
        seed: Draws what is random at first, the backbone and the head each for itself.

    Raises:
        ConfigError: No such architecture; weights that cannot be had or do not fit it.
        BundleError: The bundle to start from is not whole.
    """
    torch.manual_seed(seed)
    network = Network(architecture, head, len(labels), spec)
    network.replace(new_head(network, head, len(labels), seed))
    _check_size(network, architecture, spec)
    load_weights(network, weights, architecture, head, labels)
    _choose_what_learns(network, architecture, freeze)
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in network.parameters())
    logger.info("model: %s with %d labels, %d of %d parameters learn", architecture, len(labels), trainable, total)
    return network


def new_head(network: Network, head: Head, num_labels: int, seed: int) -> nn.Module:
    """Another head for a network, on the CPU: a function of the seed, whatever was drawn for the backbone before."""
    first = next(layer for layer in network.head.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    torch.manual_seed(seed)
    return make_head(head, first, num_labels)


def _check_size(network: Network, architecture: str, spec: InputSpec) -> None:
    """Some architectures shrink their input many times: nothing is left of a small one."""
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, spec.height, spec.width, 3, dtype=torch.uint8))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"architecture {architecture} does not take pictures of {spec.height} x {spec.width} px "
            f"({str(error).splitlines()[0]}): use another --image-size"
        ) from error


def last_stage(network: Network, architecture: str) -> list[Parameter]:
    """Parameters of the last stage of the backbone and of what follows it, the head among them."""
    # The longest beginning that fits: vgg16_bn also begins with vgg16.
    family = max((name for name in LAST_STAGE if architecture.startswith(name)), key=len)
    first = next(network.body.get_submodule(LAST_STAGE[family]).parameters())
    parameters = list(network.parameters())
    place = next(place for place, parameter in enumerate(parameters) if parameter is first)
    return parameters[place:]


def parameter_groups(network: Network) -> dict[str, list[Parameter]]:
    """What learns, in two groups: `head`, and `backbone`, which is empty when it is frozen."""
    of_head = {id(parameter) for parameter in network.head.parameters()}
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return {
        "head": [parameter for parameter in learning if id(parameter) in of_head],
        "backbone": [parameter for parameter in learning if id(parameter) not in of_head],
    }


def set_training(learner: nn.Module) -> None:
    """Switch to training mode what learns, and to evaluation mode what is frozen.

    A frozen backbone in training mode would still move its batch statistics, and drop out features. What has no
    weights (dropout) goes with the layers around it: from the first that learns on, all of it trains.
    """
    learner.eval()
    if isinstance(learner, Network) and not parameter_groups(learner)["backbone"]:
        learner.head.train()
        return
    has_begun = False
    for module in learner.modules():
        own, all_below = list(module.parameters(recurse=False)), list(module.parameters())
        has_begun = has_begun or any(parameter.requires_grad for parameter in own)
        is_leaf = next(module.children(), None) is None
        if all_below:
            module.training = all(parameter.requires_grad for parameter in all_below)
        elif is_leaf:
            module.training = has_begun


def trains_batch_norm(learner: nn.Module) -> bool:
    """Whether batch statistics are computed in training, so that a step depends on who computes which samples."""
    set_training(learner)
    return any(isinstance(module, _BatchNorm) and module.training for module in learner.modules())


def learnt_state(network: nn.Module) -> Weights:
    """A copy, on the CPU, of all that training changes: parameters that learn, and buffers."""
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in network.named_buffers()}
    state = network.state_dict()
    return {name: state[name].detach().cpu().clone() for name in state if name in learning | buffers}


def _choose_what_learns(network: Network, architecture: str, freeze: Freeze) -> None:
    network.requires_grad_(freeze == "none")
    if freeze == "last-stage":
        for parameter in last_stage(network, architecture):
            parameter.requires_grad_(True)
    network.head.requires_grad_(True)
