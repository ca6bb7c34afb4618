"""The differentiable overlaps: equal to the NumPy ones and to torchvision's, with a gradient that helps."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torchvision.ops import complete_box_iou_loss  # noqa: E402

from detkit.boxes import iou_pairs  # noqa: E402
from detkit.models.losses import ciou_pairs  # noqa: E402


def _random_boxes(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 60, (count, 2))], 1).astype(np.float32)


def test_equal_to_the_numpy_twin() -> None:
    a, b = _random_boxes(200, 0), _random_boxes(200, 1)
    ciou, iou = ciou_pairs(torch.from_numpy(a), torch.from_numpy(b))
    assert iou.numpy() == pytest.approx(iou_pairs(a, b, "iou"), abs=1e-5)
    assert ciou.numpy() == pytest.approx(iou_pairs(a, b, "ciou"), abs=1e-5)


def test_equal_to_torchvision_with_gradients() -> None:
    ours = torch.from_numpy(_random_boxes(50, 2)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    target = torch.from_numpy(_random_boxes(50, 3))
    loss = (1 - ciou_pairs(ours, target)[0]).sum()
    reference = complete_box_iou_loss(theirs, target, reduction="sum")
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-4)


def test_no_boxes_and_flat_boxes_are_finite() -> None:
    assert ciou_pairs(torch.zeros(0, 4), torch.zeros(0, 4))[0].shape == (0,)
    flat = torch.tensor([[5.0, 5, 5, 5]], requires_grad=True)
    ciou, _ = ciou_pairs(flat, torch.tensor([[0.0, 0, 10, 10]]))
    ciou.sum().backward()
    assert torch.isfinite(ciou).all()
    assert torch.isfinite(flat.grad).all()


def test_descending_the_loss_brings_the_box_home() -> None:
    box, target = torch.tensor([[0.0, 0, 10, 30]], requires_grad=True), torch.tensor([[40.0, 30, 70, 50]])
    optimizer = torch.optim.Adam([box], lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        (1 - ciou_pairs(box, target)[0]).sum().backward()
        optimizer.step()
    assert ciou_pairs(box, target)[1].item() > 0.9
