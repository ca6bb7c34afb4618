"""The optimiser, its schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """Optimiser settings.

    lr: top learning rate. backbone_lr: factor on it for a pretrained backbone. final_lr: last rate as a share of the
    top. warmup_steps: linear rise. clip_norm: largest gradient norm. ema: decay of the averaged weights.
    freeze: "stem" keeps a pretrained backbone's layers up to stride 4 as they are (half the cost of a step).
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 0.001
    backbone_lr: float = 0.3
    final_lr: float = 0.02
    weight_decay: float = 0.05
    warmup_steps: int = 200
    clip_norm: float = 10.0
    ema: float = 0.999
    freeze: Literal["none", "stem"] = "stem"


def build_optimizer(
    model: nn.Module, settings: OptimSettings, backbone: nn.Module, factor: float
) -> torch.optim.Optimizer:
    """AdamW or SGD; norms and biases are not decayed, the backbone learns at `factor` times the rate."""
    of_backbone = {id(p) for p in backbone.parameters()}
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in of_backbone, parameter.ndim > 1), []).append(parameter)
    described = [
        {
            "params": parameters,
            "lr_factor": factor if in_backbone else 1.0,
            "weight_decay": settings.weight_decay if decayed else 0.0,
        }
        for (in_backbone, decayed), parameters in groups.items()
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(described, lr=settings.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(described, lr=settings.lr)


def learning_rate(step: int, total_steps: int, settings: OptimSettings) -> float:
    """Linear warm-up, then a half cosine (Loshchilov 2017) from `lr` to `lr * final_lr` at the last step."""
    warmup = min(settings.warmup_steps, total_steps // 5)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
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


def freeze_stem(backbone: nn.Module) -> None:
    """Stop the layers up to stride 4 from learning, their batch norms included."""
    stem = backbone.get_submodule("stages.0")
    stem.requires_grad_(False)
    stem.eval()
