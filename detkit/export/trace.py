"""Export: a trained network as an ONNX graph with preprocessing and decoding inside, proven equal before it is kept."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from detkit.engines import Outputs
from detkit.engines.onnx import OnnxEngine
from detkit.engines.torch import TorchEngine
from detkit.errors import RunError
from detkit.files import replacing
from detkit.models.network import Network
from detkit.weights import CARD_KEY, ModelCard

OPSET = 17
BOX_TOLERANCE_PX = 0.1
SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Proof:
    """Largest difference between a network and its export on the same pixels; `box_px` of points too."""

    box_px: float
    score: float


class _Graph(nn.Module):
    """What is traced: uint8 RGB in; decoded boxes, scores and points, where there are some, out."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(output for output in self.model.decode(self.model(images)) if output is not None)


def export_onnx(model: Network, card: ModelCard, path: Path) -> Proof:
    """Write a network as `path`, with its card, and prove that onnxruntime gives the same boxes.

    The graph takes "images" uint8 [B, H, W, 3] RGB (H and W multiples of 32) and gives "boxes" [B, N, 4] xyxy in
    canvas pixels, "scores" [B, N, K] and, for a model of points, "points" [B, N, P, 3].

    Returns:
        The differences found on two random canvases.
    Raises:
        RunError: the export differs by more than 0.1 px or 0.001 in score, or cannot be written; no file is left.
    """
    model = model.eval()
    height, width = card.input_hw
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    with replacing(path) as partial:
        _trace(model, torch.from_numpy(noise), partial, has_points=bool(card.point_names))
        graph = onnx.load(partial)
        onnx.helper.set_model_props(graph, {CARD_KEY: card.to_json()})
        onnx.save(graph, partial)
        proof = compare_outputs(TorchEngine(model, card).run(noise), OnnxEngine(partial).run(noise))
        if not (proof.box_px <= BOX_TOLERANCE_PX and proof.score <= SCORE_TOLERANCE):
            raise RunError(
                "the export does not give the network's boxes, so it was not kept",
                found=f"{proof.box_px:.3g} px and {proof.score:.3g} in score",
                expected=f"at most {BOX_TOLERANCE_PX} px and {SCORE_TOLERANCE}",
            )
    return proof


def _trace(model: Network, images: Tensor, path: Path, *, has_points: bool) -> None:
    names = ["boxes", "scores", *(["points"] if has_points else [])]
    axes = {"images": {0: "B", 1: "H", 2: "W"}, **{name: {0: "B", 1: "N"} for name in names}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer announces its successor, which takes 20 times as long
        torch.onnx.export(
            _Graph(model).eval(),
            (images.to(next(model.parameters()).device),),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=names,
            dynamic_axes=axes,
            opset_version=OPSET,
        )


def compare_outputs(a: Outputs, b: Outputs) -> Proof:
    """Largest absolute differences between two engines' outputs for the same canvases."""
    box = np.abs(a.boxes_xyxy - b.boxes_xyxy).max(initial=0.0)
    score = np.abs(a.scores - b.scores).max(initial=0.0)
    if a.points_xyv is not None and b.points_xyv is not None:
        off = np.abs(a.points_xyv - b.points_xyv)
        box = max(box, off[..., :2].max(initial=0.0))
        score = max(score, off[..., 2].max(initial=0.0))
    return Proof(float(box), float(score))
