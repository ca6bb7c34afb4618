"""Every setting of a training run, with its default."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from detkit.models.backbones import PRETRAINED, SIZE_MULTIPLE
from detkit.models.build import with_architecture
from detkit.models.yolo import YoloSettings
from detkit.train.augment import AugmentSettings
from detkit.train.optim import OptimSettings
from detkit.weights import read_card


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of one run; `runs/NAME/config.toml` holds them all.

    data: the data set's folder or file. start: a .safetensors model to begin from. epochs: passes over the photos.
    batch_size: canvases per step. size_px: side of the canvas, a multiple of 32. seed: of everything random.
    workers: loader threads. precision: "auto" is bf16 where the processor has it. cache_mb: memory for decoded
    photos. val_every: epochs between two looks at the val split.
    """

    data: Path | None = None
    start: Path | None = None
    epochs: int = 30
    batch_size: int = 16
    size_px: int = 320
    seed: int = 0
    workers: int = 2
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    cache_mb: int = 4096
    val_every: int = 1
    model: YoloSettings = field(default_factory=YoloSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if self.size_px < SIZE_MULTIPLE or self.size_px % SIZE_MULTIPLE:
            raise ValueError(f"size_px is {self.size_px}; expected a multiple of {SIZE_MULTIPLE}")
        for name in ("epochs", "batch_size", "workers", "val_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")


def resolve(settings: TrainSettings) -> TrainSettings:
    """Settle what is left to detkit: bf16 where the processor or GPU has it, ImageNet weights where there are some.

    A model to start from brings its architecture along.

    Raises:
        WeightsError: `settings.start` cannot be used.
    """
    precision, pretrained = settings.precision, settings.model.pretrained
    model = settings.model
    if settings.start is not None:
        model = with_architecture(model, read_card(settings.start))
    if precision == "auto":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = torch.cuda.is_available() or any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
        precision = "bf16" if fast else "fp32"
    if pretrained is None:
        pretrained = settings.start is None and model.backbone in PRETRAINED
    return replace(settings, precision=precision, model=replace(model, pretrained=pretrained))
