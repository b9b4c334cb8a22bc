"""What `train` can be told. Importable without torch, so that help and launchers answer at once."""

from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import model_validator

from components.config import StageSettings
from serving.flags import setting

hyperparameter = partial(setting, is_hyperparameter=True)

OF_THE_LOOP: Final = frozenset(
    {"epochs", "batch_size", "lr", "backbone_lr_factor", "optimizer", "schedule", "warmup", "weight_decay"}
    | {"clip_norm", "label_smoothing", "class_weights", "ema", "mixup", "patience"}
)
"""What the loop alone is told: trainings that differ in nothing else stand on the same images and first weights."""
OF_THE_HEAD: Final = frozenset({"head", "hidden", "dropout"})
"""A new head is made in no time, unless it comes with the weights."""


class TrainSettings(StageSettings):
    """Settings of the train stage; the fields are its flags, hyperparameters and component inputs."""

    data: Path | None = setting(
        None, help="folder with train, valid and test inside, or with the classes right inside; default: the channels"
    )
    train: Path | None = setting(None, help="folder of the train split, instead of --data")
    valid: Path | None = setting(None, help="folder of the valid split, with --train", aliases=["val", "validation"])
    test: Path | None = setting(None, help="folder of the test split, with --train")
    model_dir: Path | None = setting(None, help="where the bundle is written; default: the platform's, else out/model")
    output_dir: Path | None = setting(
        None, help="where metrics and lists are written; default: the platform's, else MODEL_DIR.output"
    )
    checkpoint_dir: Path | None = setting(
        None, help="where a killed run goes on from; default: the platform's, else MODEL_DIR.checkpoints"
    )
    checkpoint_interval_s: float = setting(
        10.0,
        help="save the run when it was last saved so long ago, or 20 times what saving takes; 0: after every step",
        unit="s",
        ge=0,
    )
    cache_dir: Path | None = setting(
        None, help="where decoded images and features are kept; default: kennel in the user's cache folder"
    )
    cache_limit_gb: float = setting(
        50.0, help="size above which the cache forgets what was used least", unit="GB", gt=0
    )

    processes: int | None = setting(None, help="processes on each host; default: one for each GPU, else one", ge=1)
    peer_timeout_s: float = setting(
        900.0, help="time in which all processes must have found each other", unit="s", gt=0
    )

    arch: str = hyperparameter(
        "resnet18", help="torchvision classification architecture", aliases=["architecture", "model"]
    )
    weights: str = hyperparameter(
        "default",
        help="what the network knows at the start: default (torchvision's), none, a file of weights, or a bundle",
    )
    freeze: Literal["backbone", "last-stage", "none"] = hyperparameter(
        "backbone", help="what stays as it is: the backbone, all of it but its last stage, or none of it"
    )
    head: Literal["linear", "mlp"] = hyperparameter(
        "linear", help="new classifier: one layer, or two with a ReLU between"
    )
    hidden: int | None = hyperparameter(
        None, help="width of the mlp's hidden layer; default: as wide as the features", gt=0
    )
    dropout: float = hyperparameter(0.0, help="dropout in the mlp", ge=0, lt=1)
    image_size: int = hyperparameter(224, help="side of the square that the network sees", unit="px", ge=8, le=4096)

    epochs: int = hyperparameter(
        5, help="passes over the train split", ge=1, le=100_000, aliases=["num_epochs", "n_epochs"]
    )
    batch_size: int = hyperparameter(32, help="images a step, over all processes", unit="images", ge=1, le=65_536)
    micro_batch: int | None = setting(
        None,
        help="images computed at once, when a whole batch does not fit in memory; gradients add up",
        unit="images",
        ge=1,
    )
    lr: float = hyperparameter(0.001, help="learning rate", gt=0, le=1000, aliases=["learning_rate"])
    backbone_lr_factor: float = hyperparameter(
        0.1, help="learning rate of a pretrained backbone that learns, as a share of the head's", gt=0, le=1
    )
    optimizer: Literal["adam", "adamw", "sgd"] = hyperparameter("adamw", help="optimizer; sgd has a momentum of 0.9")
    schedule: Literal["cosine", "onecycle", "constant"] = hyperparameter(
        "cosine", help="learning rate over the run: down along a cosine, up and down, or as it is"
    )
    warmup: float = hyperparameter(0.0, help="share of the run in which the learning rate grows from zero", ge=0, lt=1)
    weight_decay: float = hyperparameter(0.0, help="weight decay", ge=0)
    clip_norm: float | None = hyperparameter(None, help="longest gradient; longer ones are shortened to it", gt=0)
    label_smoothing: float = hyperparameter(0.0, help="share of the target given to all labels alike", ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = hyperparameter(
        "none", help="weight of a label in the loss: the same, or the rarer the heavier"
    )
    ema: float = hyperparameter(
        0.0, help="decay of a moving average of the weights, which is what is kept; 0: none", ge=0, lt=1
    )
    augment: Literal["auto", "none", "basic", "randaugment"] = hyperparameter(
        "auto", help="random changes to images: crop and flip (basic), more; auto: basic unless the backbone is frozen"
    )
    views: int = hyperparameter(
        4, help="random views of each image whose features are kept, if a frozen backbone augments", ge=1
    )
    mixup: float = hyperparameter(0.0, help="alpha of mixup; 0: none", ge=0)
    cutmix: float = hyperparameter(0.0, help="alpha of cutmix; 0: none", ge=0)
    patience: int | None = hyperparameter(
        None, help="stop after so many epochs without a lower valid_loss", unit="epochs", ge=1
    )
    time_limit: float | None = setting(
        None,
        help="stop training after so long and keep the best epoch; counts from the first step of each start",
        unit="s",
        gt=0,
    )
    seed: int = hyperparameter(0, help="of everything drawn at random", ge=0, le=2**32 - 1)
    precision: Literal["auto", "float32", "bfloat16"] = hyperparameter(
        "auto", help="numbers that the network computes with; auto: bfloat16 on a GPU that has it"
    )
    feature_engine: Literal["auto", "onnx", "torch"] = hyperparameter(
        "auto", help="what computes a frozen backbone's features; auto: onnx on a CPU, torch on a GPU"
    )
    tensorboard: bool = setting(False, help="also write event files for TensorBoard, to OUTPUT_DIR/tensorboard")
    int8_tolerance: float = setting(
        0.5, help="largest loss of valid accuracy for which an 8-bit graph is written as well", unit="points", ge=0
    )
    class_order: Literal["imagefolder", "natural"] = hyperparameter(
        "imagefolder", help="order of labels: as ImageFolder has it (1, 10, 2), or as people count (1, 2, 10)"
    )
    duplicates: Literal["report", "drop", "keep"] = hyperparameter(
        "report", help="images that are in two splits: list them, leave them out of train and valid, or do not look"
    )
    max_unreadable: float = setting(0.01, help="largest share of files that may be unreadable and left out", ge=0, le=1)

    @property
    def foundation(self) -> tuple[tuple[str, Any], ...]:
        """Hyperparameters that shape what a training stands on; see `components.train.prepare`."""
        is_head_new = self.weights in {"default", "none"}
        apart = OF_THE_LOOP | (OF_THE_HEAD if is_head_new else frozenset())
        return tuple((name, value) for name, value in self.learnt_from().items() if name not in apart)

    @model_validator(mode="after")
    def _one_source_of_data(self) -> "TrainSettings":
        if self.data is not None and any((self.train, self.valid, self.test)):
            raise ValueError("--data and --train, --valid, --test exclude each other: give one or the other")
        if self.train is None and any((self.valid, self.test)):
            raise ValueError("--valid or --test is given without --train")
        return self
