"""Before the first step: anchors for the data, what the grid will lose, and the model card."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detkit.data.canvas import boxes_on_canvas
from detkit.data.dataset import Dataset
from detkit.errors import DataError
from detkit.models.anchors import AnchorFit, Collisions, anchor_fit, count_collisions, kmeans_anchors
from detkit.models.backbones import STRIDES
from detkit.models.build import architecture
from detkit.train.crops import card_fields, listed_shape
from detkit.train.settings import TrainSettings
from detkit.weights import ModelCard

LICENCES = {"code": "Apache-2.0", "weights": "unspecified", "data": "unspecified"}


@dataclass(frozen=True, slots=True)
class AnchorPlan:
    """Anchors per level [L][A] as (width, height) in canvas pixels, how well they fit, what they cannot tell apart."""

    anchors_wh_px: tuple[tuple[tuple[float, float], ...], ...]
    fit: AnchorFit
    collisions: Collisions


def plan_anchors(dataset: Dataset, settings: TrainSettings) -> AnchorPlan:
    """K-means anchors on the boxes of a data set, as they lie on the letterboxed canvas.

    Raises:
        DataError: there is no box to learn from.
    """
    boxes = boxes_on_canvas(dataset, settings.size_px)
    sizes_wh = np.concatenate([b[:, 2:] for b in boxes]) if boxes else np.zeros((0, 2))
    if not len(sizes_wh):
        raise DataError("no labelled box to train on", file=dataset.source, found="0 boxes", expected="at least one")
    per_level = settings.model.anchors_per_scale
    anchors = kmeans_anchors(sizes_wh, per_level * len(STRIDES), seed=settings.seed).round(1)
    levels = np.split(anchors, len(STRIDES))
    fit = anchor_fit(sizes_wh, anchors, settings.model.max_shape_ratio)
    as_tuples = tuple(tuple((float(w), float(h)) for w, h in level) for level in levels)
    return AnchorPlan(as_tuples, fit, count_collisions(boxes, STRIDES, levels))


def new_card(
    train: Dataset, plan: AnchorPlan | None, settings: TrainSettings, left_out_images: int = 0, left_out_boxes: int = 0
) -> ModelCard:
    """The card of a model about to be trained on `train`; `plan` is None for a task without anchors.

    Args:
        left_out_images, left_out_boxes: what of the data, both splits, is not used because of errors in its labels.
    """
    points = card_fields(train, settings.crop) if settings.task == "landmarks" else {}
    shape = {"mean_shape": listed_shape(train)} if settings.task == "landmarks" else {}
    return ModelCard(
        task=settings.task,
        architecture=architecture(settings.network),
        class_names=train.class_names,
        input_hw=(settings.size_px, settings.size_px),
        anchors_wh_px=() if plan is None else plan.anchors_wh_px,
        training={
            "data": train.name,
            "data_sha256": train.content_hash(),
            "images": len(train),
            "boxes": train.box_count,
            "left_out_images": left_out_images,
            "left_out_boxes": left_out_boxes,
            "epochs": settings.epochs,
            "seed": settings.seed,
        }
        | shape,
        licences=LICENCES,
        **points,
    )
