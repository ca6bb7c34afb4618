"""Torchvision's detectors in two stages: Faster R-CNN and Keypoint R-CNN.

The first stage proposes boxes, the second looks at each. `forward` ends with what the first says of every anchor;
`loss` and `decode` go on from there. Layers are torchvision's, and so are its assignment of truths, its sampling and
its losses. What chooses proposals is written here for a whole batch and a fixed number of rows, so that it can be
traced, and in float32 whatever the layers compute in: in bfloat16 a corner at 300 px would be off by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import fastrcnn_loss, heatmaps_to_keypoints, keypointrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import nms, roi_align
from torchvision.ops.poolers import LevelMapper

from detkit.detections import Detections
from detkit.models.external_face import External, clip, grid_anchors

_KEYPOINT_BOXES = 100  # of a canvas get points, the best after non-max suppression, as in torchvision
_LEAST_SIDE_PX = 1e-2  # torchvision drops final boxes with a shorter side
_NONE = -1.0  # the score of what is none


class Raw(NamedTuple):
    """Network output before decoding.

    canvas: the images [B, H, W, 3]. maps: feature maps [B, C, h, w], finest first.
    objectness: logits [B, A, h, w] for each map. offsets: [B, 4 * A, h, w] for each map.
    """

    canvas: Tensor
    maps: tuple[Tensor, ...]
    objectness: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]


class Proposals(NamedTuple):
    """What the first stage proposes: boxes [B, P, 4] and whether each is one, bool [B, P]; the others fill up."""

    boxes_xyxy: Tensor
    real: Tensor


class TwoStage(External):
    """Faster R-CNN, or Keypoint R-CNN where the detector has a head for points."""

    def forward(self, images: Tensor) -> Raw:
        """Raw output for uint8 RGB canvases [B, H, W, 3]."""
        maps = tuple(self.maps(images).values())
        objectness, offsets = self.detector.rpn.head(list(maps))
        return Raw(images, maps, tuple(objectness), tuple(offsets))

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor, Tensor | None]:
        """Boxes [B, N, 4] xyxy in canvas pixels, scores [B, N, K], points [B, N, P, 3] or None.

        Every proposal gives a row for each class, as each class moves it in a way of its own: N is K times their
        number, and a row has one score that is not 0. With points, N is 100: the best after non-max suppression.
        """
        return self.decode_proposed(raw, self.propose(raw))

    def decode_proposed(self, raw: Raw, proposals: Proposals) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same for proposals that are there already."""
        boxes, scores = self.rows(raw, proposals)
        if not self.has_points:
            return boxes, scores, None
        boxes, scores = self._best_rows(boxes, scores)
        return boxes, scores, self.points_on(raw, boxes)

    def rows(self, raw: Raw, proposals: Proposals) -> tuple[Tensor, Tensor]:
        """Boxes [B, N, 4] and scores [B, N, K] of every proposal and class."""
        batch, count = proposals.real.shape[0], proposals.real.shape[1]
        rois = _rois(proposals.boxes_xyxy)
        logits, offsets = self._second_stage(raw, rois)
        boxes = self.detector.roi_heads.box_coder.decode_single(offsets, rois[:, 1:])
        boxes = clip(boxes.reshape(batch, count, -1, 4).index_select(2, self.columns), raw.canvas)  # [B, P, K, 4]
        scores = logits.softmax(-1).reshape(batch, count, -1).index_select(2, self.columns)  # [B, P, K]
        sides = boxes[..., 2:] - boxes[..., :2]
        scores = scores * (proposals.real[..., None] & (sides >= _LEAST_SIDE_PX).all(-1))
        own = torch.eye(len(self.columns), device=scores.device)
        return boxes.flatten(1, 2), (scores[..., None] * own).flatten(1, 2)

    def points_on(self, raw: Raw, boxes: Tensor) -> Tensor:
        """Points [B, N, P, 3] on boxes [B, N, 4]; the third column is 1, as torchvision has it."""
        heads, rois = self.detector.roi_heads, _rois(boxes)
        with _as_computed(raw.maps[0]):
            heat = heads.keypoint_predictor(heads.keypoint_head(_pool(raw, rois, heads.keypoint_roi_pool)))
        points, _ = heatmaps_to_keypoints(heat.float(), rois[:, 1:])  # [B * N, P, 3]
        return points.reshape(boxes.shape[0], boxes.shape[1], -1, 3)

    @property
    def has_points(self) -> bool:
        """Whether there is a head for points."""
        return self.detector.roi_heads.keypoint_roi_pool is not None

    def loss(self, raw: Raw, truths: Sequence[Detections]) -> dict[str, Tensor]:
        """Torchvision's loss parts of both stages; their sum is what is minimised."""
        targets = self.targets(truths)
        objectness, proposal_box = self._first_loss(raw, targets)
        found = self.propose(raw)
        proposals = [boxes[real] for boxes, real in zip(found.boxes_xyxy, found.real, strict=True)]
        chosen, matched, labels, wanted = self.detector.roi_heads.select_training_samples(proposals, targets)
        index = [torch.full_like(boxes[:, :1], i) for i, boxes in enumerate(chosen)]
        logits, offsets = self._second_stage(raw, torch.cat([torch.cat(index), torch.cat(chosen)], 1))
        classes, box = fastrcnn_loss(logits, offsets, labels, wanted)
        parts = {"objectness": objectness, "proposal_box": proposal_box, "class": classes, "box": box}
        return parts | ({"points": self._point_loss(raw, chosen, matched, labels, targets)} if self.has_points else {})

    def _point_loss(
        self,
        raw: Raw,
        chosen: list[Tensor],
        matched: list[Tensor],
        labels: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> Tensor:
        """Cross-entropy over the places of each visible point, on the proposals that show an object."""
        shows = [own > 0 for own in labels]
        boxes = [own[mask] for own, mask in zip(chosen, shows, strict=True)]
        index = [own[mask] for own, mask in zip(matched, shows, strict=True)]
        rows = [torch.cat([torch.full_like(own[:, :1], i), own], 1) for i, own in enumerate(boxes)]
        heads = self.detector.roi_heads
        with _as_computed(raw.maps[0]):
            pooled = _pool(raw, torch.cat(rows), heads.keypoint_roi_pool)
            heat = heads.keypoint_predictor(heads.keypoint_head(pooled))
        found: Tensor = keypointrcnn_loss(
            heat.float().contiguous(), boxes, [own["keypoints"] for own in targets], index
        )
        return found

    def anchors(self, raw: Raw) -> Tensor:
        """Anchors [N, 4] xyxy in canvas pixels."""
        return grid_anchors(raw.canvas, raw.maps, self.detector.rpn.anchor_generator.cell_anchors)

    @torch.no_grad()
    def propose(self, raw: Raw) -> Proposals:
        """The best boxes of the first stage after non-max suppression within each level."""
        rpn = self.detector.rpn
        found = []
        for anchors, logits, offsets in self._by_level(raw):
            logits, best = _top(logits, rpn.pre_nms_top_n())
            spread, offsets = anchors[best], _rows(offsets, best)  # [B, k, 4]
            boxes = rpn.box_coder.decode_single(offsets.flatten(0, 1), spread.flatten(0, 1)).reshape(spread.shape)
            boxes, scores = clip(boxes, raw.canvas), logits.sigmoid()
            sides = boxes[..., 2:] - boxes[..., :2]
            counts = (sides >= rpn.min_size).all(-1) & (scores >= rpn.score_thresh)
            kept = _kept(boxes, scores.where(counts, _NONE), rpn.nms_thresh) & counts
            found.append((boxes, scores.where(kept, _NONE)))
        boxes, scores = (torch.cat(columns, 1) for columns in zip(*found, strict=True))
        rows, real = _best(scores, rpn.post_nms_top_n())
        return Proposals(_rows(boxes, rows) * real[..., None], real)

    def candidates(self, raw: Raw) -> Tensor:
        """The boxes [B, N, 4] that every anchor proposes."""
        coder, found = self.detector.rpn.box_coder, []
        for anchors, _, offsets in self._by_level(raw):
            spread = (anchors + offsets[..., :1] * 0).flatten(0, 1)
            found.append(coder.decode_single(offsets.flatten(0, 1), spread).reshape(offsets.shape))
        return clip(torch.cat(found, 1), raw.canvas)

    def _by_level(self, raw: Raw) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Anchors [n, 4], logits [B, n] and offsets [B, n, 4] of each level."""
        found = []
        cells = self.detector.rpn.anchor_generator.cell_anchors
        for level, cell, logits, offsets in zip(raw.maps, cells, raw.objectness, raw.offsets, strict=True):
            by_cell = offsets.float().unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2)  # [B, h, w, A, 4]
            flat = logits.float().permute(0, 2, 3, 1).flatten(1)
            found.append((grid_anchors(raw.canvas, [level], [cell]), flat, by_cell.flatten(1, 3)))
        return found

    def _first_loss(self, raw: Raw, targets: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Objectness and box loss of the first stage."""
        rpn = self.detector.rpn
        anchors = [self.anchors(raw)] * len(targets)
        logits = [level.float() for level in raw.objectness]
        objectness, offsets = concat_box_prediction_layers(logits, [level.float() for level in raw.offsets])
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        found: tuple[Tensor, Tensor] = rpn.compute_loss(
            objectness, offsets, labels, rpn.box_coder.encode(matched, anchors)
        )
        return found

    def _second_stage(self, raw: Raw, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [R, outputs] and offsets [R, 4 * outputs] of rois [R, 5]: canvas, x1, y1, x2, y2."""
        heads = self.detector.roi_heads
        with _as_computed(raw.maps[0]):
            logits, offsets = heads.box_predictor(heads.box_head(_pool(raw, rois, heads.box_roi_pool)))
        return logits.float(), offsets.float()

    def _best_rows(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The best rows after non-max suppression."""
        best, labels = scores.max(-1)  # [B, N]
        kept = _kept(boxes, best, self.detector.roi_heads.nms_thresh, labels) & (best > 0)
        rows, real = _best(best.where(kept, _NONE), _KEYPOINT_BOXES)
        return _rows(boxes, rows) * real[..., None], _rows(scores, rows) * real[..., None]


def _as_computed(maps: Tensor) -> torch.autocast:
    """Layers after the first stage compute in the precision of the maps."""
    return torch.autocast(maps.device.type, maps.dtype, enabled=maps.dtype is not torch.float32)


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of each row of scores [B, n], or all, and their places; in an exported graph for any n."""
    if not _tracing():
        return scores.topk(min(count, scores.shape[1]), 1)
    least = torch.minimum(torch.tensor(count), torch.zeros((), dtype=torch.int64) + scores.shape[1])
    return scores.topk(least, 1)  # type: ignore[arg-type]  # a number that the graph computes


def _tracing() -> bool:
    """Whether a graph is being made, which is to hold for any number of canvases."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined]


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The places of the `count` best of each row of scores [B, n], and whether they are any, bool [B, count].

    They come in the order of the places, the rest at the end: two engines whose scores differ by a rounding then still
    give the same rows.
    """
    best, rows = _top(scores, count)
    real = best > _NONE
    order = rows.where(real, rows.max() + 1).argsort(1)
    return rows.gather(1, order), real.gather(1, order)


def _rows(columns: Tensor, places: Tensor) -> Tensor:
    """The rows at `places` [B, k] of columns [B, n, c]."""
    return columns.gather(1, places[..., None].expand(-1, -1, columns.shape[2]))


def _kept(boxes: Tensor, scores: Tensor, iou: float, labels: Tensor | None = None) -> Tensor:
    """Bool [B, n]: boxes [B, n, 4] that non-max suppression leaves, within each canvas and label [B, n]."""
    canvases = torch.arange(scores.shape[0], device=boxes.device)[:, None] + torch.zeros_like(scores)
    groups = (canvases if labels is None else canvases * (labels.max() + 1) + labels).flatten()
    boxes, scores = boxes.flatten(0, 1), scores.flatten()
    if _tracing():  # no loop in the graph: no two groups overlap
        chosen = nms(boxes + groups[:, None] * (boxes.max() + 1), scores, iou)
    else:
        chosen = torch.cat([_chosen(boxes, scores, groups == group, iou) for group in groups.unique()])
    return (torch.zeros_like(scores).scatter(0, chosen, torch.ones_like(scores[chosen])) > 0).reshape(canvases.shape)


def _chosen(boxes: Tensor, scores: Tensor, own: Tensor, iou: float) -> Tensor:
    """The places that non-max suppression leaves among those of a mask."""
    places = own.nonzero().flatten()
    return places[nms(boxes[places], scores[places], iou)]


def _rois(boxes: Tensor) -> Tensor:
    """Boxes [B, P, 4] as rows of canvas, x1, y1, x2, y2: [B * P, 5]."""
    canvases = torch.arange(boxes.shape[0], device=boxes.device)[:, None, None]
    return torch.cat([boxes[..., :1] * 0 + canvases, boxes], -1).flatten(0, 1)


def _pool(raw: Raw, rois: Tensor, pooler: Any) -> Tensor:
    """Features [R, C, s, s] of rois [R, 5], each from the map that fits its size (Lin 2017, eq. 1)."""
    maps = raw.maps[: len(raw.maps) - 1]  # the last is for proposals alone
    powers = [round(math.log2(int(raw.canvas.shape[1]) / int(level.shape[2]))) for level in maps]
    mapper = LevelMapper(powers[0], powers[-1], pooler.canonical_scale, pooler.canonical_level)
    levels = mapper([rois[:, 1:]])
    pooled, places = [], []
    for number, (level, power) in enumerate(zip(maps, powers, strict=True)):
        place = torch.nonzero(levels == number).flatten()
        size, samples = pooler.output_size, pooler.sampling_ratio
        pooled.append(roi_align(level, rois[place], size, 2.0**-power, samples))
        places.append(place)
    return torch.cat(pooled)[torch.cat(places).argsort()]
