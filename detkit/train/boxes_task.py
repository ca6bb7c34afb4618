"""The tasks "yolo", "darknet" and "torchvision" in training: photos in, boxes out, judged by COCO's AP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.engines import Engine
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET, evaluate
from detkit.evaluate.intervals import bootstrap
from detkit.infer.predictor import Predictor
from detkit.train.external_task import check_external, external_card_fields
from detkit.train.loader import Batch, CanvasMaker, PhotoCache, PhotoCanvases
from detkit.train.point_canvases import PointCanvases
from detkit.train.prepare import AnchorPlan, plan_anchors
from detkit.train.reports import Figures
from detkit.train.settings import TrainSettings
from detkit.train.task import Intervals, Task
from detkit.weights import ModelCard

_VALIDATION_BATCH = 16


class Detection(Task):
    """Boxes, judged by COCO's AP."""

    figure = "AP"

    def plan(self, train: Dataset, settings: TrainSettings) -> AnchorPlan | None:
        """K-means anchors, or a Darknet network's own."""
        return plan_anchors(train, settings)

    def canvases(self, photos: PhotoCache, settings: TrainSettings, card: ModelCard) -> CanvasMaker:
        """Photos, mosaics and mixtures of them."""
        return PhotoCanvases(photos, settings.augment)

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
        """Which output is which class, the overlap of its non-max suppression, and its points where it has some."""
        return external_card_fields(train, settings)

    def canvases(self, photos: PhotoCache, settings: TrainSettings, card: ModelCard) -> CanvasMaker:
        """As for other detectors, but for one of points, whose photos are not mixed."""
        if card.point_names:
            return PointCanvases(photos, settings.augment, card.flip_pairs, card.pad_value)
        return PhotoCanvases(photos, settings.augment)

    def answering(self, model: Any, batch: Batch) -> list[Detections]:
        """Torchvision keeps its matching to itself."""
        return []
