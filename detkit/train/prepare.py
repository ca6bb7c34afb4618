"""Before the first step: anchors for the data, what the grid will lose, and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from detkit.data.canvas import boxes_on_canvas
from detkit.data.dataset import Dataset
from detkit.errors import DataError
from detkit.models.anchors import AnchorFit, Collisions, anchor_fit, count_collisions, kmeans_anchors
from detkit.models.backbones import STRIDES
from detkit.models.build import architecture
from detkit.models.darknet.cfg import parse_cfg
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
    """The anchors of a network on the boxes of a data set, as they lie on the letterboxed canvas.

    They are found by k-means on the boxes; a Darknet network brings its own.

    Raises:
        DataError: there is no box to learn from.
    """
    boxes = boxes_on_canvas(dataset, settings.size_px)
    sizes_wh = np.concatenate([b[:, 2:] for b in boxes]) if boxes else np.zeros((0, 2))
    if not len(sizes_wh):
        raise DataError("no labelled box to train on", file=dataset.source, found="0 boxes", expected="at least one")
    if settings.task == "darknet":
        heads = parse_cfg(settings.darknet.cfg).heads
        levels, strides = [np.array(head.anchors_wh_px) for head in heads], [head.stride_px for head in heads]
        max_ratio = settings.darknet.max_shape_ratio
    else:
        count, strides = settings.model.anchors_per_scale * len(STRIDES), list(STRIDES)
        levels = np.split(kmeans_anchors(sizes_wh, count, seed=settings.seed).round(1), len(STRIDES))
        max_ratio = settings.model.max_shape_ratio
    fit = anchor_fit(sizes_wh, np.concatenate(levels), max_ratio)
    as_tuples = tuple(tuple((float(w), float(h)) for w, h in level) for level in levels)
    return AnchorPlan(as_tuples, fit, count_collisions(boxes, strides, levels))


def new_card(
    train: Dataset,
    plan: AnchorPlan | None,
    settings: TrainSettings,
    of_task: Mapping[str, Any] = MappingProxyType({}),
    left_out: Mapping[str, int] = MappingProxyType({}),
) -> ModelCard:
    """The card of a model about to be trained on `train`.

    Args:
        plan: None for a task without anchors.
        of_task: what the task adds, by field of the card; see `Task.card_fields`.
        left_out: what of the data, both splits, is not used; it joins the card's training summary.
    """
    training = {
        "data": train.name,
        "data_sha256": train.content_hash(),
        "images": len(train),
        "boxes": train.box_count,
        "left_out_images": 0,
        "left_out_boxes": 0,
        **left_out,
        "epochs": settings.epochs,
        "seed": settings.seed,
        **of_task.get("training", {}),
    }
    found = {"architecture": architecture(settings.network)}
    anchors = {} if plan is None else {"anchors_wh_px": plan.anchors_wh_px}
    return ModelCard(
        task=settings.task,
        class_names=train.class_names,
        input_hw=(settings.size_px, settings.size_px),
        licences=LICENCES,
        **{**found, **anchors, **of_task, "training": training},
    )
