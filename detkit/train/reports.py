"""What a training run says as it goes: one small report for each trial, step and epoch, and one at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class TrialReport:
    """A trial before the first epoch that went well, and what it found."""

    name: str
    found: str


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimiser step: `step` are done of the `total_steps` planned.

    losses: its weighted parts. rate: learning rate. images_per_s: since the epoch began, all processes together.
    """

    epoch: int
    step: int
    total_steps: int
    losses: dict[str, float]
    rate: float
    images_per_s: float


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One epoch: mean losses, and the figures on the val split (None where nobody looked).

    epochs: planned, as far as it is known. diagnosis: what seems to be wrong, in a sentence.
    """

    epoch: int
    epochs: int
    losses: dict[str, float]
    figures: Figures | None
    is_best: bool
    seconds: float
    diagnosis: str | None = None


@dataclass(frozen=True, slots=True)
class FinishReport:
    """The end of a run. `best` is the val `figure` of best.onnx, None where nobody looked.

    complete: it reached its last step, or stopped early because nothing got better (`early`).
    """

    run: Path
    complete: bool
    early: bool
    figure: str
    best: float | None
    best_epoch: int
    seconds: float


Report = TrialReport | StepReport | EpochReport | FinishReport
