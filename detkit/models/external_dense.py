"""Torchvision's detectors with a prediction in every cell: SSD, RetinaNet and FCOS.

Raw outputs are torchvision's own, the losses are its `compute_loss`; the anchors and the decoding are written here in
a way that can be traced, for any canvas size, and give its boxes and scores before non-max suppression.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detkit.detections import Detections
from detkit.models.external_face import External, clip, grid_anchors, grid_xy

_PARTS = {"classification": "class", "bbox_regression": "box", "bbox_ctrness": "centre"}  # torchvision's word -> ours


class Raw(NamedTuple):
    """Network output before decoding.

    canvas: the images [B, H, W, 3]. levels: one channel [B, 1, h, w] of each feature map, for its grid.
    offsets: [B, N, 4]. logits: [B, N, outputs]. centre: logits of centre-ness [B, N, 1], or an empty tensor.
    """

    canvas: Tensor
    levels: tuple[Tensor, ...]
    offsets: Tensor
    logits: Tensor
    centre: Tensor


class Dense(External):
    """What the three have in common."""

    def forward(self, images: Tensor) -> Raw:
        """Raw output for uint8 RGB canvases [B, H, W, 3]."""
        maps = list(self.maps(images).values())
        heads: dict[str, Tensor] = self.detector.head(maps)
        levels = tuple(level[:, :1] for level in maps)
        centre = heads.get("bbox_ctrness", heads["cls_logits"][..., :0])
        return Raw(images, levels, heads["bbox_regression"], heads["cls_logits"], centre)

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor, None]:
        """Boxes [B, N, 4] xyxy in canvas pixels, cut at the canvas, and scores [B, N, K]; no points."""
        boxes = self.boxes(raw.offsets.float(), self.anchors(raw))
        scores = self.scores(raw.logits.float(), raw.centre.float())
        return clip(boxes, raw.canvas), scores.index_select(-1, self.columns), None

    def loss(self, raw: Raw, truths: Sequence[Detections]) -> dict[str, Tensor]:
        """Torchvision's loss parts, "box", "class" and, for FCOS, "centre"; their sum is what is minimised."""
        heads = {"bbox_regression": raw.offsets.float(), "cls_logits": raw.logits.float()}
        if raw.centre.numel():
            heads["bbox_ctrness"] = raw.centre.float()
        anchors = [self.anchors(raw)] * len(truths)
        found: dict[str, Tensor] = self.compute_loss(self.targets(truths), heads, anchors, raw)
        return {_PARTS[name]: part for name, part in found.items()}

    def anchors(self, raw: Raw) -> Tensor:
        """Anchors [N, 4] xyxy in canvas pixels."""
        return grid_anchors(raw.canvas, raw.levels, self.detector.anchor_generator.cell_anchors)

    def boxes(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Boxes [B, N, 4] of offsets [B, N, 4] from anchors [N, 4]."""
        spread = (anchors + offsets[..., :1] * 0).flatten(0, 1)  # [B * N, 4]
        boxes: Tensor = self.detector.box_coder.decode_single(offsets.flatten(0, 1), spread)
        return boxes.reshape(offsets.shape)

    def scores(self, logits: Tensor, centre: Tensor) -> Tensor:
        """Scores [B, N, outputs] of logits."""
        raise NotImplementedError

    def compute_loss(self, targets: Any, heads: Any, anchors: list[Tensor], raw: Raw) -> dict[str, Tensor]:
        """Torchvision's own."""
        raise NotImplementedError


class Ssd(Dense):
    """SSD and SSDlite: a softmax over the classes and the background, at each anchor."""

    def anchors(self, raw: Raw) -> Tensor:
        """The default boxes [N, 4]: their sizes are shares of the canvas."""
        generator = self.detector.anchor_generator
        scale_xy = _scale_xy(raw.canvas)
        anchors = []
        for k, (level, shares) in enumerate(zip(raw.levels, generator._wh_pairs, strict=True)):
            # Cells are a fixed step apart where the generator has one, else they fill the canvas.
            steps = generator.steps and (generator.steps[k],) * 2
            step_y, step_x = steps or (raw.canvas.shape[1] / level.shape[2], raw.canvas.shape[2] / level.shape[3])
            centre_xy = grid_xy(level, step_y, step_x, 0.5)[:, None]  # [h * w, 1, 2]
            half_wh = shares.to(level.device).clamp(0, 1) * scale_xy / 2  # [A, 2]
            anchors.append(torch.cat([centre_xy - half_wh, centre_xy + half_wh], -1).reshape(-1, 4))
        return torch.cat(anchors)

    def scores(self, logits: Tensor, centre: Tensor) -> Tensor:
        """A softmax."""
        return logits.softmax(-1)

    def compute_loss(self, targets: Any, heads: Any, anchors: list[Tensor], raw: Raw) -> dict[str, Tensor]:
        """Torchvision leaves the matching to its caller."""
        matches = []
        for target, own in zip(targets, anchors, strict=True):
            boxes = target["boxes"]
            nothing = torch.full((len(own),), -1, dtype=torch.int64, device=own.device)
            matches.append(self.detector.proposal_matcher(box_iou(boxes, own)) if len(boxes) else nothing)
        found: dict[str, Tensor] = self.detector.compute_loss(targets, heads, anchors, matches)
        return found


class Retina(Dense):
    """RetinaNet: a sigmoid for each class, at each anchor."""

    def scores(self, logits: Tensor, centre: Tensor) -> Tensor:
        """A sigmoid."""
        return logits.sigmoid()

    def compute_loss(self, targets: Any, heads: Any, anchors: list[Tensor], raw: Raw) -> dict[str, Tensor]:
        """Torchvision's own."""
        found: dict[str, Tensor] = self.detector.compute_loss(targets, heads, anchors)
        return found


class Fcos(Dense):
    """FCOS: a sigmoid for each class and the distances to the four sides, in each cell."""

    def boxes(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Boxes [B, N, 4] of distances in cells."""
        boxes: Tensor = self.detector.box_coder.decode(offsets, anchors)
        return boxes

    def scores(self, logits: Tensor, centre: Tensor) -> Tensor:
        """The geometric mean of the class's probability and the centre-ness."""
        return (logits.sigmoid() * centre.sigmoid()).sqrt()

    def compute_loss(self, targets: Any, heads: Any, anchors: list[Tensor], raw: Raw) -> dict[str, Tensor]:
        """Torchvision's own."""
        counts = [level.shape[2] * level.shape[3] for level in raw.levels]
        found: dict[str, Tensor] = self.detector.compute_loss(targets, heads, anchors, counts)
        return found


def _scale_xy(canvas: Tensor) -> Tensor:
    """Width and height [2] of canvases [B, H, W, 3]."""
    zero = torch.zeros((), device=canvas.device)
    return torch.stack([zero + canvas.shape[2], zero + canvas.shape[1]])
