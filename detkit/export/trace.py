"""A trained network as an ONNX graph or a TorchScript module, with preprocessing and decoding inside."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detkit.engines import Outputs
from detkit.engines.onnx import OnnxEngine
from detkit.engines.torch import TorchEngine
from detkit.errors import RunError
from detkit.export.proposals import OUTPUT, ProposingGraph, compare_two_stages, without_proposals
from detkit.files import replacing
from detkit.models.external_rcnn import TwoStage
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
        trace_onnx(model, card, partial, proposals=isinstance(model, TwoStage))
        graph = onnx.load(partial)
        onnx.helper.set_model_props(graph, {CARD_KEY: card.to_json()})
        if isinstance(model, TwoStage):
            proof = Proof(*compare_two_stages(model, partial, noise))
            without_proposals(graph)
        onnx.save(graph, partial)
        if not isinstance(model, TwoStage):
            proof = compare_outputs(TorchEngine(model, card).run(noise), OnnxEngine(partial).run(noise))
        if not (proof.box_px <= BOX_TOLERANCE_PX and proof.score <= SCORE_TOLERANCE):
            raise RunError(
                "the export does not give the network's boxes, so it was not kept",
                found=f"{proof.box_px:.3g} px and {proof.score:.3g} in score",
                expected=f"at most {BOX_TOLERANCE_PX} px and {SCORE_TOLERANCE}",
            )
    return proof


def trace_onnx(model: Network, card: ModelCard, path: Path, *, proposals: bool = False) -> None:
    """Write a network as an ONNX graph for any number of canvases of any size; it carries no card yet.

    Args:
        proposals: of a network in two stages, let the graph give the proposals of the first too.
    Raises:
        RunError: the tracer cannot follow the network.
    """
    names = ["boxes", "scores", *(["points"] if card.point_names else []), *([OUTPUT] if proposals else [])]
    axes = {"images": {0: "B", 1: "H", 2: "W"}, **{name: {0: "B", 1: "N"} for name in names}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer announces its successor, which takes 20 times as long
        torch.onnx.export(
            (ProposingGraph if proposals else _Graph)(model).eval(),  # type: ignore[arg-type]
            (_example(model, card),),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=names,
            dynamic_axes=axes,
            opset_version=OPSET,
        )


def trace_torchscript(model: Network, card: ModelCard, path: Path) -> None:
    """Write a network as a TorchScript module with its card as the extra file "detkit".

    It takes uint8 [B, H, W, 3] and gives a tuple of what the ONNX graph gives.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it is deprecated, and what many C++ programs load
        traced = torch.jit.trace(_Graph(model).eval(), (_example(model, card),), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced), str(path), _extra_files={CARD_KEY: card.to_json()})


class TorchScriptEngine:
    """Runs a module that `trace_torchscript` has just written; files of others run code, so nothing else opens one."""

    name = "torchscript"
    parallel = 1

    def __init__(self, path: Path) -> None:
        extra: dict[str, Any] = {CARD_KEY: ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
        self.card = ModelCard.from_json(extra[CARD_KEY].decode(), file=path)

    def run(self, batch_rgb: NDArray[np.uint8]) -> Outputs:
        """Run the module on uint8 [B, H, W, 3] RGB canvases."""
        with torch.inference_mode():
            found = self._module(torch.from_numpy(np.ascontiguousarray(batch_rgb)))
        return Outputs(*(tensor.numpy() for tensor in found))


def _example(model: Network, card: ModelCard) -> Tensor:
    """Two canvases of the card's size, noise."""
    noise = np.random.default_rng(0).integers(0, 256, (2, *card.input_hw, 3), dtype=np.uint8)
    return torch.from_numpy(noise).to(next(model.parameters()).device)


def compare_outputs(a: Outputs, b: Outputs) -> Proof:
    """Largest absolute differences between two engines' outputs for the same canvases."""
    box = np.abs(a.boxes_xyxy - b.boxes_xyxy).max(initial=0.0)
    score = np.abs(a.scores - b.scores).max(initial=0.0)
    if a.points_xyv is not None and b.points_xyv is not None:
        off = np.abs(a.points_xyv - b.points_xyv)
        box = max(box, off[..., :2].max(initial=0.0))
        score = max(score, off[..., 2].max(initial=0.0))
    return Proof(float(box), float(score))
