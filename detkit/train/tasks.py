"""What differs from task to task in training: the canvases, the look at the val split and the figure that decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.engines import Engine
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET, evaluate
from detkit.evaluate.intervals import bootstrap
from detkit.infer.predictor import Predictor
from detkit.train.distributed import Team
from detkit.train.external_task import check_external, external_card_fields
from detkit.train.loader import Batch, CanvasMaker, PhotoCache, PhotoCanvases
from detkit.train.localize_task import Localization
from detkit.train.points_task import Landmarking
from detkit.train.prepare import AnchorPlan, plan_anchors
from detkit.train.reports import Figures
from detkit.train.sampling import epoch_order
from detkit.train.settings import TrainSettings
from detkit.train.window_task import Windowing
from detkit.weights import ModelCard

_VALIDATION_BATCH = 16
Intervals = dict[str, list[float]]


class Task(Protocol):
    """One thing to learn."""

    @property
    def figure(self) -> str:
        """The figure that decides which weights are the best."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is better."""
        ...

    def usable(self, dataset: Dataset) -> Dataset:
        """The part of a split that the task can learn from, or be judged by.

        Raises:
            DataError: there is none.
        """
        ...

    def plan(self, train: Dataset, settings: TrainSettings) -> AnchorPlan | None:
        """The anchors for the data, where the task has some."""
        ...

    def card_fields(self, train: Dataset, settings: TrainSettings) -> dict[str, Any]:
        """What the task adds to the model card, by field; what is under "training" joins the rest of it."""
        ...

    def canvases(self, photos: PhotoCache, settings: TrainSettings, card: ModelCard) -> CanvasMaker:
        """What the network is fed."""
        ...

    def order(self, canvases: CanvasMaker, train: Dataset, settings: TrainSettings, epoch: int) -> NDArray[np.int64]:
        """The canvases of an epoch, in order."""
        ...

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
        """A chance to change what the network is fed, the same after a resume as without a stop.

        Args:
            canvases: what `canvases` gave. engine: runs the averaged weights. progress: share of the run done when the
            epoch begins (0-1). run: the run's folder. begun: the epoch was interrupted and goes on.
        """
        ...

    def answering(self, model: Any, batch: Batch) -> list[Detections]:
        """The anchors that answer for the boxes of a batch, per canvas; none where the task has no anchors."""
        ...

    def predict(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """What the network says of some samples, for the figures."""
        ...

    def show(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """The same as a user of the model would see it."""
        ...

    def figures(self, val: Dataset, predictions: Sequence[Detections]) -> Figures:
        """How good the predictions are, over the whole split."""
        ...

    def intervals(self, val: Dataset, predictions: Sequence[Detections]) -> Intervals:
        """95 % intervals of the main figures, for the model card."""
        ...


@dataclass(frozen=True, slots=True)
class Detection:
    """Boxes, judged by COCO's AP."""

    figure: str = "AP"
    higher_is_better: bool = True

    def usable(self, dataset: Dataset) -> Dataset:
        """Every photo; one without objects shows what none look like."""
        return dataset

    def plan(self, train: Dataset, settings: TrainSettings) -> AnchorPlan | None:
        """K-means anchors, or a Darknet network's own."""
        return plan_anchors(train, settings)

    def card_fields(self, train: Dataset, settings: TrainSettings) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def canvases(self, photos: PhotoCache, settings: TrainSettings, card: ModelCard) -> CanvasMaker:
        """Photos, mosaics and mixtures of them."""
        return PhotoCanvases(photos, settings.augment)

    def order(self, canvases: CanvasMaker, train: Dataset, settings: TrainSettings, epoch: int) -> NDArray[np.int64]:
        """Every photo once, those of rare classes more often where `balance` asks for it."""
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
        """Nothing changes."""

    def answering(self, model: Any, batch: Batch) -> list[Detections]:
        """By the rule the run learns by."""
        with torch.no_grad():
            canvases = torch.from_numpy(batch[0]).to(next(model.parameters()).device)
            found: list[Detections] = model.answering(model(canvases), batch[1])
        return found

    def predict(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """Boxes down to COCO's lowest scores."""
        predictor = Predictor(engine, conf=CONF_FLOOR, max_det=MAX_DET)
        return list(predictor.predict_files([sample.image_path for sample in samples], batch=_VALIDATION_BATCH))

    def show(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """Boxes above the card's threshold."""
        return list(Predictor(engine).predict_files([sample.image_path for sample in samples]))

    def figures(self, val: Dataset, predictions: Sequence[Detections]) -> Figures:
        """COCO's 12 figures."""
        return evaluate(val, list(predictions)).figures()

    def intervals(self, val: Dataset, predictions: Sequence[Detections]) -> Intervals:
        """Of AP, AP50 and AP75."""
        return bootstrap(val, list(predictions)).figures()


class ExternalDetection(Detection):
    """The same by one of torchvision's detectors, which brings its anchors along."""

    def plan(self, train: Dataset, settings: TrainSettings) -> None:
        """Nothing, once it is clear that this detector can learn from this data."""
        check_external(train, settings)

    def card_fields(self, train: Dataset, settings: TrainSettings) -> dict[str, Any]:
        """Which output is which class, and the overlap of its non-max suppression."""
        return external_card_fields(settings.torchvision, train.class_names)

    def answering(self, model: Any, batch: Batch) -> list[Detections]:
        """Torchvision keeps its matching to itself."""
        return []


def better(task: Task, figures: Figures, best: float | None) -> bool:
    """Whether figures beat the best so far (None: there is none)."""
    value = figures[task.figure]
    return best is None or (value > best if task.higher_is_better else value < best)


def task_of(name: str) -> Task:
    """The task a run's settings name."""
    return TASKS[name]()


TASKS: dict[str, Callable[[], Task]] = {
    "yolo": Detection,
    "darknet": Detection,
    "landmarks": Landmarking,
    "localize": Localization,
    "window": Windowing,
    "torchvision": ExternalDetection,
}
