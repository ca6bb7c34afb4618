"""Small window models for the tests: random weights, scaled so that scores differ from window to window."""

from __future__ import annotations

import torch

from detkit.models.window import SlidingWindow, WindowSettings
from detkit.weights import ModelCard

SHAPES = ((30.0, 40.0), (50.0, 20.0))


def window_model(
    backbone: str = "lenet5", stride: int = 8, window_px: int = 64, layers: int = 1, **card: object
) -> tuple[SlidingWindow, ModelCard]:
    """A model of two classes and its card."""
    torch.manual_seed(0)
    settings = WindowSettings(backbone, pretrained=False, stride=stride, hidden=16, hidden_layers=layers)
    model = SlidingWindow(settings, window_px, ("cat", "dog"), SHAPES)
    with torch.no_grad():
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
                module.momentum = None  # the mean over all it sees
        noise = torch.randint(0, 256, (2, window_px + 4 * stride, window_px + 4 * stride, 3), dtype=torch.uint8)
        model.train()(noise)  # the norms get to know what they norm
        logits = model.eval()(noise).logits
        model.scores.weight.mul_(2 / logits.std((0, 2, 3)).mean())
        model.scores.bias.sub_(model(noise).logits.mean((0, 2, 3)))
    architecture = {"backbone": backbone, "stride": stride, "hidden": 16, "hidden_layers": layers}
    values = {"crop_margin": 0.1, "thresholds": {"conf": 0.3, "iou": 0.3}} | card
    return model.eval(), ModelCard(
        "window", architecture, ("cat", "dog"), (window_px, window_px), anchors_wh_px=(SHAPES,), **values
    )
