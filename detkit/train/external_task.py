"""What training one of torchvision's detectors needs beyond the boxes' task: its limits, and its part of the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from detkit.coco_names import COCO_NAMES
from detkit.data.dataset import Dataset
from detkit.errors import DataError, UsageError
from detkit.models.build import architecture
from detkit.models.external import KINDS, TorchvisionSettings
from detkit.train.settings import TrainSettings
from detkit.weights import DEFAULT_CONF


def check_external(train: Dataset, settings: TrainSettings) -> None:
    """Refuse what a detector cannot learn.

    Raises:
        UsageError: a detector of points, whose canvases would need points, or canvases too small for its layers.
        DataError: there is no box to learn from.
    """
    name = settings.torchvision.name
    if name.startswith("keypoint"):
        others = [other for other in KINDS if not other.startswith("keypoint")]
        raise UsageError(
            f"{name} can be imported, run and exported, not trained: the canvases of detectors carry no points; "
            "train a detector, and --task landmarks for the points on its boxes",
            expected=" or ".join(others[:3]),
        )
    smallest, least = min(*settings.sides_px(0.0), *settings.sides_px(1.0)), KINDS[name].least_px
    if smallest < least:
        raise UsageError(f"{name} needs larger canvases", found=f"{smallest} px", expected=f"at least {least} px")
    if not train.box_count:
        raise DataError("no labelled box to train on", file=train.source, found="0 boxes", expected="at least one")


def external_card_fields(settings: TorchvisionSettings, class_names: Sequence[str]) -> dict[str, Any]:
    """The fields of the card that hang on the detector and the classes.

    The layout of COCO's 91 outputs stays for COCO's classes alone: a model for others that starts from one with that
    layout gets outputs of its own.
    """
    own = settings if tuple(class_names) == COCO_NAMES else replace(settings, layout="plain")
    thresholds = {"conf": DEFAULT_CONF, "iou": KINDS[settings.name].iou}
    return {"architecture": architecture(own), "thresholds": thresholds}
