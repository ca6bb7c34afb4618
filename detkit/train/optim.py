"""The optimiser, its schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from detkit.models.backbones import Backbone

FROZEN = {"none": 0, "stem": 1, "stride8": 2, "stride16": 3, "backbone": 4}  # backbone stages that do not learn


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """Optimiser settings.

    lr: top learning rate. backbone_lr: factor on it for a pretrained backbone. layer_decay: one more factor for each
    of its four stages on the way to the pixels, so that early layers, which know the most, move the least.
    final_lr: last rate as a share of the top. warmup_steps: linear rise. momentum: of SGD. weight_decay: of weights,
    not of norms and biases. clip_norm: largest gradient norm. ema: decay of the averaged weights.
    accumulate: batches per step; the gradient is their mean.
    freeze: the part of a pretrained backbone that stays as it is: "stem" (up to stride 4: a quarter of a step's cost),
    "stride8", "stride16", "backbone" (all of it) or "none".
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 0.001
    backbone_lr: float = 0.3
    layer_decay: float = 1.0
    final_lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 0.05
    warmup_steps: int = 200
    clip_norm: float = 10.0
    ema: float = 0.999
    accumulate: int = 1
    freeze: Literal["none", "stem", "stride8", "stride16", "backbone"] = "stem"

    def __post_init__(self) -> None:
        for name in ("lr", "backbone_lr", "layer_decay", "clip_norm", "accumulate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; expected above 0")
        for name in ("final_lr", "momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; expected 0 to 1, below 1")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError("optim.warmup_steps and optim.weight_decay must be at least 0")


def build_optimizer(model: nn.Module, settings: OptimSettings, backbone: Backbone, factor: float) -> Optimizer:
    """AdamW or SGD; norms and biases are not decayed, the backbone learns at `factor` times the rate.

    Where `factor` is below 1 (a pretrained backbone), `layer_decay` lowers it further from stage to stage.
    """
    depth = {id(p): depth for depth, stage in enumerate(reversed(backbone.stages)) for p in stage.parameters()}
    decay = settings.layer_decay if factor < 1 else 1.0
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            share = factor * decay ** depth[id(parameter)] if id(parameter) in depth else 1.0
            groups.setdefault((share, parameter.ndim > 1), []).append(parameter)
    described = [
        {"params": parameters, "lr_factor": share, "weight_decay": settings.weight_decay if decayed else 0.0}
        for (share, decayed), parameters in groups.items()
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(described, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    return torch.optim.AdamW(described, lr=settings.lr)


def learning_rate(step: int, total_steps: int, settings: OptimSettings) -> float:
    """Linear warm-up, then a half cosine (Loshchilov 2017) from `lr` to `lr * final_lr` at the last step."""
    warmup = min(settings.warmup_steps, total_steps // 5)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def average_weights(model: nn.Module, settings: OptimSettings) -> AveragedModel:
    """Exponential moving average of weights and buffers; the decay grows from 0.1 so that a short run averages too."""

    def update(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current.detach().clone()
        decay = min(settings.ema, (1 + int(count)) / (10 + int(count)))
        return averaged.lerp(current.detach(), 1 - decay)

    return AveragedModel(model, avg_fn=update, use_buffers=True)


def freeze_stages(backbone: Backbone, count: int) -> None:
    """Stop the first `count` stages from learning, their batch norms included; call it after every `model.train()`."""
    for stage in backbone.stages[:count]:
        stage.requires_grad_(False)
        stage.eval()
