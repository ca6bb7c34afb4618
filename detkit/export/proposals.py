"""The proof of a network in two stages, whose rows hang on which boxes the first stage proposes.

Of two proposals that are equally good, a rounding decides which one comes, and a network that has hardly learnt finds
nearly all of them equally good. So the graph to be proven gives its proposals too: each must be one that the network
makes as well, and the network's second stage looks at the same ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detkit.models.external_rcnn import Proposals, TwoStage

OUTPUT = "proposals"  # [B, P, 5]: a box in canvas pixels, and 1 where it is one

_AT_ONCE = 100  # proposals that are compared with all candidates
_POINTS_ELSEWHERE = 0.1  # share that may be: where two places are equally likely, a rounding decides


class ProposingGraph(nn.Module):
    """What is traced: the outputs of the network, and its proposals."""

    def __init__(self, model: TwoStage) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raw = self.model(images)
        proposals = self.model.propose(raw)
        found = self.model.decode_proposed(raw, proposals)
        packed = torch.cat([proposals.boxes_xyxy, proposals.real[..., None].float()], -1)
        return (*(output for output in found if output is not None), packed)


def without_proposals(graph: Any) -> None:
    """Take the proposals from a graph's outputs, in place."""
    for output in [output for output in graph.graph.output if output.name == OUTPUT]:
        graph.graph.output.remove(output)


def compare_two_stages(model: TwoStage, path: Path, canvases: NDArray[np.uint8]) -> tuple[float, float]:
    """Largest differences, in pixels and in score, between a network and its graph.

    Args:
        model: in evaluation mode. path: an ONNX file traced from `ProposingGraph`. canvases: uint8 [B, H, W, 3].
    """
    found = _run(path, canvases)
    device = next(model.parameters()).device
    with torch.inference_mode():
        raw = model(torch.from_numpy(canvases).to(device))
        packed = torch.from_numpy(found[OUTPUT]).to(device)
        proposals = Proposals(packed[..., :4].contiguous(), packed[..., 4] > 0)
        boxes, scores = (torch.from_numpy(found[name]).to(device) for name in ("boxes", "scores"))
        box_px = _farthest(proposals, model.candidates(raw))
        own = model.rows(raw, proposals)
        if not model.has_points:
            return max(box_px, _largest(boxes, own[0])), _largest(scores, own[1])
        score = 0.0
        for i, rows in enumerate(boxes):
            real = scores[i].amax(-1) > 0
            apart, at = torch.cdist(rows[real], own[0][i], p=torch.inf).min(1)
            box_px, score = max(box_px, float(apart.max())), max(score, _largest(scores[i][real], own[1][i][at]))
        points = torch.from_numpy(found["points"]).to(device)
        moved = (points - model.points_on(raw, boxes)).abs()[..., :2].amax(-1).flatten()
        return max(box_px, float(moved.quantile(1 - _POINTS_ELSEWHERE))), score


def _run(path: Path, canvases: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": canvases}), strict=True))


def _farthest(proposals: Proposals, candidates: Tensor) -> float:
    """How far a proposal can be from the nearest of the candidates [B, N, 4]."""
    farthest = 0.0
    for boxes, real, own in zip(*proposals, candidates, strict=True):
        for some in boxes[real].split(_AT_ONCE):
            farthest = max(farthest, float(torch.cdist(some, own, p=torch.inf).amin(1).max()))
    return farthest


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.numel() else 0.0
