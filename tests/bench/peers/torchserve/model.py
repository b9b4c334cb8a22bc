"""The network as TorchServe's archives want it: a class that is made without arguments."""

from torchvision.models.resnet import Bottleneck, ResNet


class Classifier(ResNet):
    def __init__(self):
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=133)
