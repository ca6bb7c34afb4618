"""Engines run a network; each gives the same `Outputs` for the same pixels (DESIGN: one face for every model)."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from detkit.weights import ModelCard


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
