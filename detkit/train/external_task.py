"""What training one of torchvision's detectors needs beyond the boxes' task: its limits, and its part of the card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detkit.coco_names import COCO_NAMES
from detkit.data.dataset import Dataset
from detkit.data.keypoints import labelled_boxes, mirrored_pairs
from detkit.errors import DataError, UsageError
from detkit.models.build import architecture
from detkit.models.external import KINDS
from detkit.train.settings import TrainSettings
from detkit.weights import DEFAULT_CONF


def check_external(train: Dataset, settings: TrainSettings) -> None:
    """Refuse what a detector cannot learn.

    Raises:
        UsageError: canvases too small for its layers.
        DataError: there is no box to learn from, or no labelled point for a detector of points.
    """
    name = settings.torchvision.name
    if name.startswith("keypoint"):
        labelled_boxes(train)
    smallest, least = min(*settings.sides_px(0.0), *settings.sides_px(1.0)), KINDS[name].least_px
    if smallest < least:
        raise UsageError(f"{name} needs larger canvases", found=f"{smallest} px", expected=f"at least {least} px")
    if not train.box_count:
        raise DataError("no labelled box to train on", file=train.source, found="0 boxes", expected="at least one")


def external_card_fields(train: Dataset, settings: TrainSettings) -> dict[str, Any]:
    """The fields of the card that hang on the detector, the classes and the points.

    The layout of COCO's 91 outputs stays for COCO's classes alone: a model for others that starts from one with that
    layout gets outputs of its own.
    """
    chosen = settings.torchvision
    own = chosen if train.class_names == COCO_NAMES else replace(chosen, layout="plain")
    found: dict[str, Any] = {"architecture": architecture(own)}
    if chosen.name.startswith("keypoint"):
        pairs = mirrored_pairs(train) if settings.augment.flip else ()
        found |= {"point_names": train.point_names, "flip_pairs": pairs, "point_edges": train.point_edges}
    return found | {"thresholds": {"conf": DEFAULT_CONF, "iou": KINDS[chosen.name].iou}}
