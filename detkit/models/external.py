"""Torchvision's detectors by name: which there are, their settings, and how a model card becomes one of them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torchvision

from detkit.coco_names import COCO_NAMES
from detkit.errors import WeightsError
from detkit.models.depthwise import quicken_depthwise
from detkit.models.external_dense import Fcos, Retina, Ssd
from detkit.models.external_face import External
from detkit.models.external_rcnn import TwoStage
from detkit.weights import ModelCard

Layout = Literal["plain", "coco91"]


class Kind(NamedTuple):
    """One of torchvision's detectors: detkit's class around it, and what its published weights were trained with.

    iou: of its non-max suppression. class_layers: starts of the names of its layers that know the classes.
    class_key: a tensor with a row for each output, `anchors` times over.
    canvas_px: about the size at which its published weights saw photos. stretched: whether they were stretched to it.
    least_px: the smallest canvas its layers can be run on.
    zero_eps: whether the batch norms of its published COCO_V1 file are to be used without an epsilon.
    """

    make: type[External]
    iou: float
    class_layers: tuple[str, ...]
    class_key: str
    anchors: int
    canvas_px: int
    stretched: bool = False
    least_px: int = 32
    zero_eps: bool = False


_SSD = "head.classification_head.module_list."
_LAST = "head.classification_head.cls_logits."
_BOX = "roi_heads.box_predictor."
_OF_BOX = ((_BOX,), f"{_BOX}cls_score.weight", 1)
_OF_POINTS = ((_BOX, "roi_heads.keypoint_predictor."), f"{_BOX}cls_score.weight", 1)
_800 = 1088  # photos of 4:3 whose shorter side is 800 px have a longer one of 1067
KINDS = {
    "ssdlite320_mobilenet_v3_large": Kind(
        Ssd, 0.55, tuple(f"{_SSD}{i}.1." for i in range(6)), f"{_SSD}0.1.weight", 6, 320, stretched=True
    ),
    "ssd300_vgg16": Kind(Ssd, 0.45, (_SSD,), f"{_SSD}0.weight", 4, 300, stretched=True, least_px=288),
    "retinanet_resnet50_fpn": Kind(Retina, 0.5, (_LAST,), f"{_LAST}weight", 9, _800, zero_eps=True),
    "retinanet_resnet50_fpn_v2": Kind(Retina, 0.5, (_LAST,), f"{_LAST}weight", 9, _800),
    "fcos_resnet50_fpn": Kind(Fcos, 0.6, (_LAST,), f"{_LAST}weight", 1, _800),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Kind(TwoStage, 0.5, *_OF_BOX, 448),
    "fasterrcnn_mobilenet_v3_large_fpn": Kind(TwoStage, 0.5, *_OF_BOX, _800),
    "fasterrcnn_resnet50_fpn": Kind(TwoStage, 0.5, *_OF_BOX, _800, zero_eps=True),
    "fasterrcnn_resnet50_fpn_v2": Kind(TwoStage, 0.5, *_OF_BOX, _800),
    "keypointrcnn_resnet50_fpn": Kind(TwoStage, 0.5, *_OF_POINTS, _800, zero_eps=True),
}
COCO_OUTPUTS = 91  # the background and COCO's category ids 1 to 90
_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_COLUMNS = tuple(i for i in range(1, COCO_OUTPUTS) if i not in _UNUSED_IDS)


@dataclass(frozen=True, slots=True)
class TorchvisionSettings:
    """Which of torchvision's detectors.

    name: one of `external.KINDS`. layout: which output is which class; "plain" has one for the background and one for
    each class in their order, "coco91" has the 91 of the published COCO weights, 80 of which are used.
    pretrained: whether the backbone starts from ImageNet weights; none are at hand for these.
    """

    name: str = "ssdlite320_mobilenet_v3_large"
    layout: Layout = "plain"
    pretrained: bool | None = None

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            near = difflib.get_close_matches(self.name, KINDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; one of {', '.join(KINDS)}"
            raise ValueError(f"torchvision.name is {self.name!r}{hint}")
        if self.layout not in ("plain", "coco91"):
            raise ValueError(f"torchvision.layout is {self.layout!r}; expected 'plain' or 'coco91'")
        if self.pretrained:
            raise ValueError("torchvision.pretrained is true; no ImageNet weights are at hand, only --weights FILE")

    @property
    def backbone(self) -> str:
        """The detector's name says it."""
        return self.name


def make_external(card: ModelCard, settings: TorchvisionSettings) -> External:
    """One of torchvision's detectors with random weights; none are ever downloaded.

    Raises:
        WeightsError: the card's classes or points do not fit the detector.
    """
    kind = KINDS[settings.name]
    if bool(card.point_names) != settings.name.startswith("keypoint"):
        expected = "a name for each" if settings.name.startswith("keypoint") else "none"
        found = f"{len(card.point_names)} of them"
        raise WeightsError(f"points in the model card of a {settings.name}", found=found, expected=expected)
    columns = tuple(range(1, len(card.class_names) + 1))
    outputs = len(columns) + 1
    if settings.layout == "coco91":
        columns, outputs = COCO_COLUMNS, COCO_OUTPUTS
        if card.class_names != COCO_NAMES:
            found = ", ".join(card.class_names[:3]) + ", ..."
            raise WeightsError("classes in the model card of a COCO layout", found=found, expected="COCO's 80")
    network = kind.make(detector(settings.name, outputs, len(card.point_names)), columns)
    quicken_depthwise(network.detector)
    network.least_px = kind.least_px
    network.class_layers = tuple(f"detector.{layer}" for layer in kind.class_layers)
    return network


def detector(name: str, outputs: int, points: int = 0) -> Any:
    """Torchvision's own model with random weights, every layer of which may learn.

    Args:
        name: one of `KINDS`. outputs: its classes, the background included. points: of each box, where it has some.
    """
    build = getattr(torchvision.models.detection, name)
    more = {"num_keypoints": points} if points else {}
    return build(weights=None, weights_backbone=None, num_classes=outputs, **more)
