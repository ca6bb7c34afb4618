"""`Task`: what differs from one thing to learn to the next; the loop that trains is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.engines import Engine
from detkit.train.distributed import Team
from detkit.train.loader import Batch, CanvasMaker, PhotoCache
from detkit.train.prepare import AnchorPlan
from detkit.train.reports import Figures
from detkit.train.sampling import epoch_order
from detkit.train.settings import TrainSettings
from detkit.weights import ModelCard

Intervals = dict[str, list[float]]


class Task:
    """One thing to learn: the canvases, the look at the val split and the figure that decides."""

    figure: ClassVar[str]  # which weights are the best is decided by it
    higher_is_better: ClassVar[bool] = True

    def usable(self, dataset: Dataset) -> Dataset:
        """The part of a split that the task can learn from, or be judged by: every photo.

        Raises:
            DataError: there is none.
        """
        return dataset

    def plan(self, train: Dataset, settings: TrainSettings) -> AnchorPlan | None:
        """The anchors for the data, where the task has some; none here."""
        return None

    def card_fields(self, train: Dataset, settings: TrainSettings) -> dict[str, Any]:
        """What the task adds to the model card, by field; what is under "training" joins the rest of it."""
        return {}

    def canvases(self, photos: PhotoCache, settings: TrainSettings, card: ModelCard) -> CanvasMaker:
        """What the network is fed."""
        raise NotImplementedError

    def order(self, canvases: CanvasMaker, train: Dataset, settings: TrainSettings, epoch: int) -> NDArray[np.int64]:
        """The canvases of an epoch, in order: every photo once, rare classes more often where `balance` asks for it."""
        return epoch_order(train, settings.seed, epoch, settings.balance)

    def before_epoch(
        self,
        canvases: CanvasMaker,
        engine: Callable[[], Engine],
        progress: float,
        run: Path,
        team: Team,
        *,
        begun: bool,
    ) -> None:
        """A chance to change what the network is fed, the same after a resume as without a stop; nothing here.

        Args:
            canvases: what `canvases` gave. engine: runs the averaged weights. progress: share of the run done when the
            epoch begins (0-1). run: the run's folder. begun: the epoch was interrupted and goes on.
        """

    def answering(self, model: Any, batch: Batch) -> list[Detections]:
        """The anchors that answer for the boxes of a batch, per canvas; none where the task has no anchors."""
        return []

    def predict(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """What the network says of some samples, for the figures."""
        raise NotImplementedError

    def show(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """The same as a user of the model would see it."""
        raise NotImplementedError

    def figures(self, val: Dataset, predictions: Sequence[Detections]) -> Figures:
        """How good the predictions are, over the whole split."""
        raise NotImplementedError

    def intervals(self, val: Dataset, predictions: Sequence[Detections]) -> Intervals:
        """95 % intervals of the main figures, for the model card."""
        raise NotImplementedError
