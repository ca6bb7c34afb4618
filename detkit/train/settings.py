"""Every setting of a training run, with its default."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from detkit.errors import UsageError, WeightsError
from detkit.models.backbones import PRETRAINED, SIZE_MULTIPLE
from detkit.models.build import with_architecture
from detkit.models.darknet.network import DarknetSettings
from detkit.models.darknet.weights import cfg_for_training
from detkit.models.external import TorchvisionSettings
from detkit.models.landmarks import LandmarkSettings
from detkit.models.localize import LocalizeSettings
from detkit.models.network import NetworkSettings
from detkit.models.window import WindowSettings
from detkit.models.yolo import YoloSettings
from detkit.train.augment import AugmentSettings
from detkit.train.crops import CropSettings
from detkit.train.loader import multi_scale_sides
from detkit.train.localize_canvases import LocalizeCanvasSettings
from detkit.train.optim import OptimSettings
from detkit.train.window_crops import ExampleSettings
from detkit.weights import ModelCard, read_card

# task -> the table of its network's settings
TABLES = {
    "yolo": "model",
    "darknet": "darknet",
    "landmarks": "landmarks",
    "localize": "localize",
    "window": "window",
    "torchvision": "torchvision",
}

WINDOW_PX = 96  # side of the window where none is asked for
_LEAST_WINDOW_PX = 16
_GROWN_BY = 0.7  # share of the run after which the canvas has its full size


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of one run; `runs/NAME/config.toml` holds them all.

    data: the data set's folder or file. format: what to take it for; none lets detkit find out.
    task: what is learnt; "yolo" uses [model] and [augment], "darknet" uses [darknet] and [augment], "landmarks" uses
    [landmarks] and [crop], "localize" uses [localize] and [localize_canvas], "window" uses [window] and [examples],
    "torchvision" uses [torchvision] and [augment].
    start: a .safetensors model to begin from.
    epochs: passes over the photos. time_min: minutes for the whole run, which is planned to end on time; 0 is no
    limit, otherwise `epochs` is left out of account.
    batch_size: canvases per step, of all processes together; 0 lets detkit choose.
    size_px: side of the canvas, a multiple of 32; or of the window, any from 16 px on. multi_scale: each batch draws
    its side from size_px times 1 - multi_scale to 1 + multi_scale. grow: share of size_px at the start of the run; the
    canvas then grows with it (progressive learning, Tan 2021) and has its full size after 70 % of the run.
    balance: frequency below which the photos of a class are repeated (repeat factor sampling, Gupta 2019); 0 is off.
    seed: of everything random. workers: loader threads.
    precision: "auto" is bf16 where the processor has it; "fp16" needs a GPU.
    compile: by torch.compile; "auto" is on GPUs alone, where it pays.
    sync_bn: batch norms that see the batch of all processes (GPUs only).
    cache_mb: memory for decoded photos. val_every: epochs between two looks at the val split. patience: looks
    without a better result after which the run ends; 0 is off. save_every_min: minutes between two saves within an
    epoch. keep_last: saved states kept. self_test: try the network, the export and the first batch before the first
    epoch. tensorboard: write its log too. allow_bad: photos with an error in their labels that may be left out.
    """

    data: Path | None = None
    format: Literal["coco", "yolo", "voc", "csv"] | None = None
    task: Literal["yolo", "darknet", "landmarks", "localize", "window", "torchvision"] = "yolo"
    start: Path | None = None
    epochs: int = 30
    time_min: float = 0.0
    batch_size: int = 16
    size_px: int = 320
    multi_scale: float = 0.0
    grow: float = 1.0
    balance: float = 0.0
    seed: int = 0
    workers: int = 2
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    sync_bn: bool = False
    cache_mb: int = 4096
    val_every: int = 1
    patience: int = 0
    save_every_min: float = 10.0
    keep_last: int = 1
    self_test: bool = True
    tensorboard: bool = False
    allow_bad: int = 0
    model: YoloSettings = field(default_factory=YoloSettings)
    darknet: DarknetSettings = field(default_factory=DarknetSettings)
    landmarks: LandmarkSettings = field(default_factory=LandmarkSettings)
    localize: LocalizeSettings = field(default_factory=LocalizeSettings)
    window: WindowSettings = field(default_factory=WindowSettings)
    torchvision: TorchvisionSettings = field(default_factory=TorchvisionSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    crop: CropSettings = field(default_factory=CropSettings)
    localize_canvas: LocalizeCanvasSettings = field(default_factory=LocalizeCanvasSettings)
    examples: ExampleSettings = field(default_factory=ExampleSettings)

    def __post_init__(self) -> None:
        if self.task == "window":
            if self.size_px < _LEAST_WINDOW_PX or self.multi_scale or self.grow != 1:
                raise ValueError(f"a window has one size, from {_LEAST_WINDOW_PX} px on: size_px, without growing")
        elif self.size_px < SIZE_MULTIPLE or self.size_px % SIZE_MULTIPLE:
            raise ValueError(f"size_px is {self.size_px}; expected a multiple of {SIZE_MULTIPLE}")
        for name in ("epochs", "workers", "val_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("time_min", "batch_size", "balance", "patience", "save_every_min", "cache_mb", "allow_bad"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")
        if not 0 < self.grow <= 1:
            raise ValueError(f"grow is {self.grow}; expected above 0, at most 1")
        multi_scale_sides(self.size_px, self.multi_scale)

    @property
    def network(self) -> NetworkSettings:
        """The settings of the network of this task."""
        return getattr(self, TABLES[self.task])

    def sides_px(self, progress: float) -> tuple[int, ...]:
        """The canvas sides a batch may have when `progress` (0-1) of the run is done."""
        if self.task == "window":
            return (self.size_px,)
        share = self.grow + (1 - self.grow) * min(1.0, progress / _GROWN_BY)
        side = max(SIZE_MULTIPLE, round(self.size_px * share / SIZE_MULTIPLE) * SIZE_MULTIPLE)
        return multi_scale_sides(side, self.multi_scale)


def resolve(settings: TrainSettings) -> TrainSettings:
    """Settle what is left to detkit: bf16 where the processor or GPU has it, ImageNet weights where there are some.

    A model to start from brings its task and its architecture along.

    Raises:
        WeightsError: `settings.start` cannot be used.
        UsageError: a setting this machine cannot follow.
    """
    if settings.start is not None:
        settings = _as_card(settings, read_card(settings.start))
    if settings.task == "darknet":
        sides = {side for progress in (0.0, 1.0) for side in settings.sides_px(progress)}
        steps = range(min(sides), max(sides) + 1, SIZE_MULTIPLE)  # a growing canvas passes through all of them
        settings = with_network(settings, cfg=cfg_for_training(settings.darknet.cfg, [*steps, settings.size_px]))
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        for name, wanted in (("precision", settings.precision == "fp16"), ("sync_bn", settings.sync_bn)):
            if wanted:
                raise UsageError(f"{name} = {getattr(settings, name)} needs a GPU", found="none in this machine")
    precision = settings.precision
    if precision == "auto":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = has_gpu or any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
        precision = "bf16" if fast else "fp32"
    compiled = settings.compile if settings.compile != "auto" else "on" if has_gpu else "off"
    if settings.network.pretrained is None:
        pretrained = settings.start is None and settings.network.backbone in PRETRAINED
        settings = with_network(settings, pretrained=pretrained)
    return replace(settings, precision=precision, compile=compiled)


def _as_card(settings: TrainSettings, card: ModelCard) -> TrainSettings:
    """The settings with a card's task and the architecture of its network."""
    if card.task not in TABLES:
        raise WeightsError("unknown task in the model card", found=repr(card.task), expected=" or ".join(TABLES))
    if settings.task not in ("yolo", card.task):  # "yolo" may just not have been changed
        raise WeightsError("a model of another task to start from", found=repr(card.task), expected=repr(settings.task))
    settings = replace(settings, task=card.task)  # type: ignore[arg-type]
    return replace(settings, **{TABLES[card.task]: with_architecture(settings.network, card)})  # type: ignore[arg-type]


def with_network(settings: TrainSettings, **changes: object) -> TrainSettings:
    """The settings with something else in those of their network."""
    network = replace(settings.network, **changes)  # type: ignore[type-var]
    return replace(settings, **{TABLES[settings.task]: network})  # type: ignore[arg-type]
