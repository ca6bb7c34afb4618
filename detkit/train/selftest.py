"""Trials before the first epoch, on a copy of the network: can it learn, can it be exported.

None of them touches the network, its optimiser or a random generator: a run goes on bit for bit as without them.
"""

from __future__ import annotations

import copy
import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detkit.detections import Detections
from detkit.errors import RunError
from detkit.export import Proof, export_onnx
from detkit.models.network import Network
from detkit.train.learner import DTYPES
from detkit.weights import ModelCard

_LOSS_SCALE = {"fp16": 1024.0}  # half precision loses small gradients; AdamW does not mind the factor
# (learning rate, share of the steps): the first does for a network that has learnt before, the second for one that must
# not be thrown out of what it knows, the last for random weights. There the loss may rise at first, because boxes that
# get better raise the objectness that is asked of them.
_TRIES = ((1e-3, 1), (1e-4, 1), (1e-2, 4))
_TRIAL_CANVASES = 4
_FALL = 0.95  # share of the loss that counts as fallen


@dataclass(frozen=True, slots=True)
class LossFall:
    """Total loss on one batch before and after `steps` steps of a copy of the network."""

    before: float
    after: float
    steps: int


class Trial:
    """A copy of a network that takes steps of its own, in training mode; frozen parts stay as they are.

    Args:
        model: the network. precision: "fp32", "bf16" or "fp16". rate: learning rate of AdamW.
    Raises:
        RunError: no weight can change.
    """

    def __init__(self, model: Network, precision: str, rate: float) -> None:
        self.twin = copy.deepcopy(model).train()
        for module in self.twin.modules():
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                module.eval()  # a frozen batch norm keeps its statistics
        learning = [p for p in self.twin.parameters() if p.requires_grad]
        if not learning:
            raise RunError("nothing can be learnt: every weight is frozen; try --set optim.freeze=stem")
        self.optimizer = torch.optim.AdamW(learning, rate, weight_decay=0.0)
        self.device, self.precision = learning[0].device, precision

    def parts(self, canvases: Tensor, truths: Sequence[Detections]) -> dict[str, Tensor]:
        """The loss parts of a batch, in the run's precision."""
        dtype = DTYPES[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32):
            raw = self.twin(canvases)
        parts: dict[str, Tensor] = self.twin.loss(raw, truths)
        return parts

    def step(self, canvases: Tensor, truths: Sequence[Detections]) -> dict[str, float]:
        """One step; the loss parts before it."""
        parts = self.parts(canvases, truths)
        self.optimizer.zero_grad(set_to_none=True)
        (torch.stack(list(parts.values())).sum() * _LOSS_SCALE.get(self.precision, 1.0)).backward()
        self.optimizer.step()
        return {name: part.item() for name, part in parts.items()}


def loss_falls(
    model: Network, canvases: Tensor, truths: Sequence[Detections], *, precision: str = "fp32", steps: int = 10
) -> LossFall:
    """Prove that the network can learn: some steps on one batch must lower the loss on it, by any of three rates.

    Args:
        model: the network, not compiled and not wrapped; it stays as it is.
        canvases: uint8 [B, S, S, 3]; the first four do. truths: B labelled canvases.
        precision: "fp32", "bf16" or "fp16", as in the run. steps: at the first rate; two or three are mostly enough.
    Raises:
        RunError: the loss does not fall, is not finite, or no weight can change.
    """
    canvases, truths = canvases[:_TRIAL_CANVASES], truths[:_TRIAL_CANVASES]
    losses: list[dict[str, float]] = []
    with rng_untouched():
        for rate, share in _TRIES:
            losses = _losses(Trial(model, precision, rate), canvases, truths, share * steps)
            if _fell(losses):
                return LossFall(_total(losses[0]), _total(losses[-1]), len(losses) - 1)
    listed = " ".join(f"{_total(parts):.4g}" for parts in (losses[0], *losses[-3:]))
    raise RunError(
        "the loss on one batch does not fall, so this network cannot learn these labels; look at the first batch's "
        "picture in plots/ and at the loss gains",
        found=f"{listed} after {len(losses) - 1} steps",
        expected=f"below {_FALL * _total(losses[0]):.4g}",
    )


def _losses(trial: Trial, canvases: Tensor, truths: Sequence[Detections], steps: int) -> list[dict[str, float]]:
    """The loss parts before each step and after the last, ended where the loss has fallen."""
    canvases = canvases.to(trial.device)
    losses: list[dict[str, float]] = []
    for _ in range(steps + 1):
        losses.append(trial.step(canvases, truths))
        if not math.isfinite(_total(losses[-1])):
            found = f"{_total(losses[-1])} after {len(losses) - 1} steps"
            cause = "the weights or the labels are broken" if trial.precision == "fp32" else "try --set precision=fp32"
            raise RunError(f"the loss on the first batch is not finite; {cause}", found=found, expected="a number")
        if _fell(losses):
            break
    return losses


def _fell(losses: Sequence[dict[str, float]]) -> bool:
    """The last total is clearly below the first, and not at the cost of most parts.

    Parts can hang together: boxes that get worse lower the objectness that is asked of them.
    """
    first, last = losses[0], losses[-1]
    better, worse = (sum(sign * (last[name] - first[name]) > 0 for name in first) for sign in (-1, 1))
    return _total(last) <= _FALL * _total(first) and better >= worse


def _total(parts: dict[str, float]) -> float:
    return sum(parts.values())


def export_round_trip(model: Network, card: ModelCard) -> Proof:
    """Prove that the network can be exported: its ONNX file gives the same boxes; nothing is kept.

    Raises:
        RunError: it cannot be exported, or the export differs.
    """
    with rng_untouched(), tempfile.TemporaryDirectory(prefix="detkit-") as folder:
        try:
            return export_onnx(copy.deepcopy(model), card, Path(folder) / "trial.onnx")
        except (RuntimeError, ValueError, TypeError) as error:  # what the exporter does not know
            raise RunError(f"this network cannot be exported to ONNX: {error}") from error


@contextmanager
def rng_untouched() -> Iterator[None]:
    """Whatever happens inside, every random generator goes on afterwards as if nothing had."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (the global one is kept, not used)
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
