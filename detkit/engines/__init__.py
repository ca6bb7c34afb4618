"""Engines run a network; each gives the same `Outputs` for the same pixels (DESIGN: one face for every model)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from detkit.errors import MissingExtraError
from detkit.weights import ModelCard, read_card


class Outputs(NamedTuple):
    """What a network says of a batch of canvases, decoded, before non-max suppression.

    boxes_xyxy: float32 [B, N, 4] in canvas pixels. scores: float32 [B, N, K] in 0-1.
    points_xyv: float32 [B, N, P, 3] in canvas pixels, or None.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    points_xyv: NDArray[np.float32] | None = None


class Engine(Protocol):
    """A loaded network."""

    name: str
    card: ModelCard

    def run(self, batch_rgb: NDArray[np.uint8]) -> Outputs:
        """Run the network on uint8 [B, H, W, 3] RGB canvases."""
        ...


def open_engine(path: Path) -> Engine:
    """Load a model file into the engine that runs its kind: `.onnx` in onnxruntime, `.safetensors` in PyTorch.

    Raises:
        WeightsError: a file that cannot be used.
        MissingExtraError: a `.safetensors` file, and PyTorch is not installed.
    """
    if path.suffix.lower() != ".safetensors":
        from detkit.engines.onnx import OnnxEngine

        return OnnxEngine(path)
    read_card(path)  # an unusable file is said to be one, with or without PyTorch
    try:
        from detkit.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("detkit"):
            raise
        needs = f'a .safetensors model runs in PyTorch ({error.name} is missing): pip install "detkit-cv[train]"'
        raise MissingExtraError(f"{needs}, or give the .onnx", file=path) from error
    return TorchEngine.open(path)
