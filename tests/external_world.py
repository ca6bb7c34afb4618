"""Torchvision's detectors with random weights that decide something, and what torchvision itself makes of a canvas."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detkit.detections import Detections
from detkit.images import Placement
from detkit.infer.selection import Selection, select
from detkit.models.build import build
from detkit.models.external import KINDS
from detkit.models.external_face import External
from detkit.models.external_rcnn import TwoStage, _rois
from detkit.models.external_weights import PERSON_POINTS
from detkit.weights import ModelCard

ALL = 10**6


def external_card(name: str, size_hw: tuple[int, int], class_names: tuple[str, ...] = ("a", "b", "c")) -> ModelCard:
    points = PERSON_POINTS if name.startswith("keypoint") else ()
    architecture = {"name": name, "layout": "plain"}
    thresholds = {"conf": 0.25, "iou": KINDS[name].iou}
    return ModelCard(
        "torchvision", architecture, class_names, size_hw, thresholds=thresholds, point_names=tuple(points)
    )


def new_network(name: str, size_hw: tuple[int, int], class_names: tuple[str, ...] = ("a", "b", "c")) -> External:
    torch.manual_seed(0)
    network = build(external_card(name, size_hw, class_names))
    assert isinstance(network, External)
    return network.eval()


def scenes(count: int, size_hw: tuple[int, int]) -> Tensor:
    """Canvases uint8 [B, H, W, 3]: a ramp, some rectangles and a little noise."""
    rng = np.random.default_rng(3)
    height, width = size_hw
    y, x = np.mgrid[0:height, 0:width]
    found = []
    for _ in range(count):
        scene = np.stack([255 * x / width, 255 * y / height, 127 + 0 * x], -1)
        for _ in range(6):
            x1, y1 = rng.integers(0, width - 16), rng.integers(0, height - 16)
            w, h = rng.integers(8, width // 2, 2)
            scene[y1 : y1 + h, x1 : x1 + w] = rng.integers(0, 256, 3)
        found.append(scene + rng.normal(0, 12, scene.shape))
    return torch.from_numpy(np.clip(np.stack(found), 0, 255).astype(np.uint8))


@torch.no_grad()
def decide(network: External, canvases: Tensor) -> None:
    """Settle the batch norms and spread the scores and offsets of the last layers."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # type: ignore[assignment]  # a mean over what follows
    noise = torch.randint(0, 256, canvases.shape, dtype=torch.uint8)  # what an export is proven on
    network.train()
    network(torch.cat([canvases, noise]))
    network.eval()
    detector = network.detector
    if isinstance(network, TwoStage):
        _spread([detector.rpn.head.cls_logits], 2.0, _joined(network(canvases).objectness))
        _spread([detector.rpn.head.bbox_pred], 0.5, _joined(network(canvases).offsets))
        predictor = detector.roi_heads.box_predictor
        for layer, wanted, which in ((predictor.cls_score, 2.0, 0), (predictor.bbox_pred, 0.7, 1)):
            raw = network(canvases)
            _spread([layer], wanted, network._second_stage(raw, _rois(network.propose(raw).boxes_xyxy))[which])
        return
    classes, offsets = detector.head.classification_head, detector.head.regression_head
    _spread(_last(classes, "cls_logits"), 2.0, network(canvases).logits)
    _spread(_last(offsets, "bbox_reg"), 1.0, network(canvases).offsets)
    for layer in _last(classes, "cls_logits"):
        layer.bias.fill_(-1.0)
    if hasattr(classes, "cls_logits"):  # training makes the background's own output always 0
        rows = classes.cls_logits.out_channels // classes.num_anchors
        classes.cls_logits.weight.unflatten(0, (-1, rows))[:, 0] = 0
        classes.cls_logits.bias.unflatten(0, (-1, rows))[:, 0] = -30
    if hasattr(offsets, "bbox_ctrness"):
        _spread([offsets.bbox_ctrness], 2.0, network(canvases).centre)
        offsets.bbox_reg.bias.fill_(1.0)


@torch.no_grad()
def torchvision_says(network: External, canvases: Tensor, conf: float) -> list[dict[str, Tensor]]:
    """The evaluation output of torchvision's own model, its limits on the number of boxes lifted."""
    detector = network.detector
    _no_resizing(detector, canvases)
    limits = detector.roi_heads if isinstance(network, TwoStage) else detector
    limits.score_thresh, limits.detections_per_img = conf, ALL if not network_has_points(network) else 100
    if not isinstance(network, TwoStage):
        detector.topk_candidates = ALL
    found: list[dict[str, Tensor]] = detector.eval()(_pictures(canvases))
    return found


def torchvision_loses(network: External, canvases: Tensor, truths: list[Detections]) -> dict[str, Tensor]:
    """The losses of torchvision's own model in training mode; label k is its k + 1."""
    _no_resizing(network.detector, canvases)
    targets = [
        {"boxes": torch.from_numpy(t.boxes_xyxy.copy()), "labels": torch.from_numpy(t.labels + 1)} for t in truths
    ]
    found: dict[str, Tensor] = network.detector.train()(_pictures(canvases), targets)
    return found


@torch.no_grad()
def detkit_says(network: External, canvases: Tensor, conf: float, iou: float) -> list[Detections]:
    """What detkit's suppression leaves of the decoded boxes."""
    boxes, scores, points = network.decode(network(canvases))
    size_hw = canvases.shape[1], canvases.shape[2]
    whole = Placement(size_hw, size_hw, (1.0, 1.0), (0.0, 0.0))
    chosen = Selection(conf, iou, max_det=ALL, max_candidates=ALL)
    return [
        select(boxes[i].numpy(), scores[i].numpy(), whole, chosen, None if points is None else points[i].numpy())
        for i in range(len(canvases))
    ]


def network_has_points(network: External) -> bool:
    return isinstance(network, TwoStage) and network.has_points


def _no_resizing(detector: Any, canvases: Tensor) -> None:
    height, width = canvases.shape[1], canvases.shape[2]
    transform = detector.transform
    transform.min_size, transform.max_size = (min(height, width),), max(height, width)
    if transform.fixed_size is not None:
        transform.fixed_size = (width, height)


def _pictures(canvases: Tensor) -> list[Tensor]:
    return [canvas.permute(2, 0, 1).float() / 255 for canvas in canvases]


def _spread(layers: list[Any], wanted: float, values: Tensor) -> None:
    for layer in layers:
        layer.weight.mul_(wanted / values.std())
        layer.bias.zero_()


def _last(head: Any, name: str) -> list[Any]:
    """The layers that give the numbers: one, or one for each level."""
    if not hasattr(head, "module_list"):
        return [getattr(head, name)]
    return [[part for part in block.modules() if isinstance(part, nn.Conv2d)][-1] for block in head.module_list]


def _joined(maps: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([level.flatten() for level in maps])
