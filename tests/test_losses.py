"""The losses: by hand, equal to the NumPy ones and to torchvision's, with a gradient that helps."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torchvision.ops import complete_box_iou_loss, sigmoid_focal_loss  # noqa: E402

from detkit.boxes import iou_pairs  # noqa: E402
from detkit.models.losses import ciou_pairs, focal_loss, quality_focal_loss, smooth_one_hot  # noqa: E402


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


LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def test_focal_loss_by_hand() -> None:
    logits, targets = torch.tensor([0.0, 0.0, LN3, LN3]), torch.tensor([1.0, 0.0, 1.0, 0.0])  # p = 1/2, 1/2, 3/4, 3/4
    expected = [0.25 / 4 * LN2, 0.75 / 4 * LN2, 0.25 / 16 * (LN4 - LN3), 0.75 * 9 / 16 * LN4]
    assert focal_loss(logits, targets).tolist() == pytest.approx(expected)


def test_focal_loss_is_torchvision_s_with_its_gradient() -> None:
    torch.manual_seed(0)
    ours = (torch.randn(4, 7, 3) * 4).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    targets = (torch.rand(4, 7, 3) < 0.3).float()
    mine, reference = focal_loss(ours, targets), sigmoid_focal_loss(theirs, targets, alpha=0.25, gamma=2)
    mine.sum().backward()
    reference.sum().backward()
    assert torch.allclose(mine, reference, atol=1e-6)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_quality_focal_loss_by_hand() -> None:
    logits, targets = torch.tensor([0.0, 0.0, 0.0, LN3]), torch.tensor([0.5, 1.0, 0.0, 0.25])
    expected = [0, 0.25 * LN2, 0.25 * LN2, 0.25 * (0.25 * (LN4 - LN3) + 0.75 * LN4)]  # the last: p = 3/4
    assert quality_focal_loss(logits, targets).tolist() == pytest.approx(expected)


def test_focal_losses_without_focus_are_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50) * 3, (torch.rand(50) < 0.5).float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert torch.allclose(focal_loss(logits, targets, alpha=0.5, gamma=0) * 2, plain)
    assert torch.allclose(quality_focal_loss(logits, targets, beta=0), plain)


def test_focal_losses_have_true_and_finite_gradients() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(20, dtype=torch.float64) * 3).requires_grad_()
    soft, hard = torch.rand(20, dtype=torch.float64), (torch.rand(20) < 0.5).double()
    assert torch.autograd.gradcheck(lambda x: quality_focal_loss(x, soft), logits)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, hard), logits)
    extreme = torch.tensor([-1e4, 1e4, -1e4, 1e4, 0.0], requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    both = focal_loss(extreme, targets) + quality_focal_loss(extreme, targets)
    both.sum().backward()
    assert torch.isfinite(both).all()
    assert torch.isfinite(extreme.grad).all()
    assert focal_loss(torch.zeros(0), torch.zeros(0)).shape == quality_focal_loss(torch.zeros(0), torch.zeros(0)).shape


def test_quality_focal_loss_is_least_where_the_score_is_the_overlap() -> None:
    logits = torch.linspace(-6, 6, 1201)
    for wanted in (0.1, 0.5, 0.8):
        best = logits[quality_focal_loss(logits, torch.full_like(logits, wanted)).argmin()]
        assert best.sigmoid().item() == pytest.approx(wanted, abs=0.01)


def test_smoothed_class_targets() -> None:
    labels = torch.tensor([1, 0])
    assert smooth_one_hot(labels, 3, 0.0).tolist() == [[0, 1, 0], [1, 0, 0]]
    for row, expected in zip(smooth_one_hot(labels, 3, 0.2).tolist(), [[0.1, 0.9, 0.1], [0.9, 0.1, 0.1]], strict=True):
        assert row == pytest.approx(expected)
    assert smooth_one_hot(torch.zeros(0, dtype=torch.int64), 3, 0.1).shape == (0, 3)
