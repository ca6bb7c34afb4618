"""What learns: the network, its averaged twin, the optimiser; one batch in, one step on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detkit.detections import Detections
from detkit.models.network import Network
from detkit.train.distributed import Team
from detkit.train.optim import FROZEN, average_weights, build_optimizer, freeze_stages, set_learning_rate
from detkit.train.settings import TrainSettings

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """The network of one process of a team, and how it takes a step.

    Args:
        model: the network, on the CPU.
        settings: resolved.
        team: the processes that train it together.
        from_pretrained: whether the backbone has learnt before; then it learns more slowly and its stem may be frozen.
    """

    def __init__(self, model: Network, settings: TrainSettings, team: Team, *, from_pretrained: bool) -> None:
        self.settings, self.team, self.device = settings, team, team.device
        if settings.sync_bn and team.size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self._frozen_stages = FROZEN[settings.optim.freeze] if from_pretrained else 0
        freeze_stages(self.model.backbone, self._frozen_stages)
        factor = settings.optim.backbone_lr if from_pretrained else 1.0
        self.optimizer = build_optimizer(self.model, settings.optim, self.model.backbone, factor)
        self.averaged = average_weights(self.model, settings.optim)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self._forward: Any = self.model  # by way of the wrappers that speed it up or exchange gradients
        if settings.compile == "on":
            self._forward = torch.compile(self._forward, dynamic=len(settings.sides_px(0)) > 1 or settings.grow < 1)
        if team.size > 1:
            self._forward = DistributedDataParallel(self._forward)

    def train_mode(self) -> None:
        """Get ready to learn; frozen stages stay as they are."""
        self.model.train()
        freeze_stages(self.model.backbone, self._frozen_stages)

    def autocast(self) -> torch.autocast:
        """The context in which the network computes."""
        dtype = DTYPES[self.settings.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32)

    def gather(self, canvases: Tensor, truths: Sequence[Detections], *, share: float, last: bool) -> dict[str, float]:
        """Add a batch's gradient to the step to come; gives its loss parts.

        Args:
            canvases: uint8 [B, S, S, 3]. truths: B of them.
            share: weight of this batch in the step. last: the step follows; only then do the processes exchange.
        Returns:
            The loss parts of this process's batch; where one is not finite, no gradient was computed.
        """
        alone = self.team.size == 1 or last
        with nullcontext() if alone else self._forward.no_sync():
            with self.autocast():
                raw = self._forward(canvases.to(self.device))
            parts = self.model.loss(raw, truths)
            losses = {name: part.item() for name, part in parts.items()}
            if all(map(math.isfinite, losses.values())):
                self.scaler.scale(torch.stack(list(parts.values())).sum() * share).backward()
        return losses

    def step(self, rate: float) -> float:
        """Take the step that the gathered gradients point to; gives the gradient's norm before clipping."""
        set_learning_rate(self.optimizer, rate)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.optim.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.averaged.update_parameters(self.model)
        return float(norm)

    def agree(self) -> None:
        """Give every process the averaged weights of the first, so that all judge the same network."""
        self.team.spread(self.averaged.module.state_dict())

    def averaged_model(self) -> Network:
        """The averaged network, ready to be used."""
        model: Network = self.averaged.eval().module  # type: ignore[assignment]
        return model
