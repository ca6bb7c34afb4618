"""The task "localize" in training: photos of one object or none in, one answer each out, judged by its quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.engines import Engine
from detkit.evaluate.localization import evaluate_localization, mean_box, one_or_none
from detkit.infer.predictor import Predictor
from detkit.train.crops import Photos
from detkit.train.localize_canvases import LocalizeCanvases
from detkit.train.settings import TrainSettings
from detkit.train.task import Task
from detkit.weights import ModelCard

CONF = 0.4  # score from which on an object counts as found
_VALIDATION_BATCH = 16
_INTERVALS_OF = ("quality", "LOC", "mean_IoU", "class_accuracy", "pc_accuracy")


class Localization(Task):
    """One object or none, judged by whether it was found, its class and its IoU together; see `task.Task`."""

    figure = "quality"

    def usable(self, dataset: Dataset) -> Dataset:
        """The photos with one object or none.

        Raises:
            DataError: no photo has exactly one.
        """
        return one_or_none(dataset)

    def card_fields(self, train: Dataset, settings: TrainSettings) -> dict[str, Any]:
        """The threshold, and the mean box that a model is measured against."""
        guesser = asdict(mean_box(train))
        guesser["box_rel_xyxy"] = list(guesser["box_rel_xyxy"])
        return {"thresholds": {"conf": CONF, "iou": 0.6}, "training": {"baseline": guesser}}

    def canvases(self, photos: Photos, settings: TrainSettings, card: ModelCard) -> LocalizeCanvases:
        """One canvas for each photo."""
        return LocalizeCanvases(photos, settings.localize_canvas)

    def predict(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """The one box of each photo, however low its score."""
        predictor = Predictor(engine, conf=0.0)
        return list(predictor.predict_files([sample.image_path for sample in samples], batch=_VALIDATION_BATCH))

    def show(self, engine: Engine, samples: Sequence[Sample]) -> list[Detections]:
        """The box, or none, at the card's threshold."""
        return list(Predictor(engine).predict_files([sample.image_path for sample in samples]))

    def figures(self, val: Dataset, predictions: Sequence[Detections]) -> dict[str, float]:
        """Those of `evaluate.localization.Figures`."""
        return evaluate_localization(val, predictions, CONF).figures.to_dict()

    def intervals(self, val: Dataset, predictions: Sequence[Detections]) -> dict[str, list[float]]:
        """Of the main figures."""
        found = evaluate_localization(val, predictions, CONF).intervals
        return {name: list(found[name]) for name in _INTERVALS_OF}
