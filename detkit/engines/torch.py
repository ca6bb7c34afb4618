"""The PyTorch engine: the network as it was trained, on the CPU or a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from detkit.engines import Outputs
from detkit.models.checkpoint import load_model
from detkit.models.network import Network
from detkit.weights import ModelCard


class TorchEngine:
    """Runs a network that is in memory; `TorchEngine.open` reads one from a `.safetensors` file."""

    name = "torch"
    parallel = 1  # PyTorch's threads serve one run at a time

    def __init__(self, model: Network, card: ModelCard, *, bf16: bool = False) -> None:
        """Args: model and its card. bf16: run convolutions in bfloat16 (faster, slightly different numbers)."""
        self.model, self.card, self.bf16 = model.to(memory_format=torch.channels_last).eval(), card, bf16
        self.device = next(model.parameters()).device

    @classmethod
    def open(cls, path: Path | str) -> TorchEngine:
        """Load a `.safetensors` file; WeightsError when it is unfit."""
        model, card = load_model(Path(path))
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), card)

    def run(self, batch_rgb: NDArray[np.uint8]) -> Outputs:
        """Run the network on uint8 [B, H, W, 3] RGB canvases."""
        images = torch.from_numpy(np.ascontiguousarray(batch_rgb)).to(self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            boxes, scores, points = self.model.decode(self.model(images))
        found = boxes.float().cpu().numpy(), scores.float().cpu().numpy()
        return Outputs(*found, None if points is None else points.float().cpu().numpy())
