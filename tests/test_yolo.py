"""YOLO: decoding by hand, a loss that does what its parts say, and a network that can be built again from its card."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from detkit.detections import Detections  # noqa: E402
from detkit.models.build import architecture  # noqa: E402
from detkit.models.yolo import Raw, Yolo, YoloSettings, stack_targets  # noqa: E402

ANCHORS = [[[8.0, 8.0], [8.0, 24.0]], [[32.0, 32.0], [48.0, 24.0]], [[80.0, 60.0], [120.0, 90.0]]]
SIZE_HW = (64, 96)


@pytest.fixture(scope="module")
def model() -> Yolo:
    torch.manual_seed(0)
    return Yolo(YoloSettings(backbone="lenet5", pretrained=False, width=16, anchors_per_scale=2), ("a", "b"), ANCHORS)


def _raw(fill: float = -8.0) -> Raw:
    shapes = [(1, 2, SIZE_HW[0] // stride, SIZE_HW[1] // stride, 7) for stride in (8, 16, 32)]
    levels = []
    for shape in shapes:
        level = torch.zeros(shape)
        level[..., 4:] = fill
        levels.append(level)
    return Raw(tuple(levels))


def _truth(boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None) -> Detections:
    return Detections(SIZE_HW, np.array(boxes).reshape(-1, 4), np.array(labels), crowd=crowd)


def test_forward_and_decode_shapes_on_a_canvas_that_is_not_square(model: Yolo) -> None:
    images = torch.randint(0, 256, (3, *SIZE_HW, 3), dtype=torch.uint8)
    raw = model.eval()(images)
    assert [tuple(level.shape) for level in raw.levels] == [(3, 2, 8, 12, 7), (3, 2, 4, 6, 7), (3, 2, 2, 3, 7)]
    boxes, scores, points = model.decode(raw)
    rows = 2 * (8 * 12 + 4 * 6 + 2 * 3)
    assert boxes.shape == (3, rows, 4)
    assert scores.shape == (3, rows, 2)
    assert points is None
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


def test_decode_by_hand(model: Yolo) -> None:
    raw = _raw()
    cell = raw.levels[0][0, 1, 3, 5]  # level of stride 8, anchor 8x24, row 3, column 5
    cell[:] = torch.tensor([0.0, 0.0, 0.0, 0.0, 20.0, 20.0, -20.0])
    boxes, scores, _ = model.decode(raw)
    row = 1 * 8 * 12 + 3 * 12 + 5
    # all offsets 0: centre in the middle of its cell, (5.5, 3.5) * 8; the sides are the anchor's
    assert boxes[0, row].tolist() == pytest.approx([44 - 4, 28 - 12, 44 + 4, 28 + 12])
    assert scores[0, row].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    cell[:4] = torch.tensor([50.0, -50.0, 50.0, -50.0])  # the ends of the range
    boxes, _, _ = model.decode(raw)
    assert boxes[0, row].tolist() == pytest.approx([52 - 16, 20, 52 + 16, 20], abs=1e-3)


def test_a_perfect_prediction_costs_nothing_in_box_and_class(model: Yolo) -> None:
    # exactly the anchor 8x24 at (44.5, 28.5), a little right of and below the middle of row 3, column 5
    truth = _truth([[40.5, 16.5, 48.5, 40.5]], [1])
    raw = _raw(fill=-20)
    for row, column in ((3, 5), (3, 6), (4, 5)):  # its own cell and the two nearest
        reach_xy = torch.tensor([44.5 / 8 - column, 28.5 / 8 - row]) + 0.5  # = 2 * sigmoid(t)
        raw.levels[0][0, :, row, column, :2] = torch.logit(reach_xy / 2)
        raw.levels[0][0, :, row, column, 6] = 20
        raw.levels[0][0, 0, row, column, 2:4] = torch.logit(torch.tensor([1.0, 3**0.5]) / 2)  # anchor 8x8, grown
        raw.levels[0][0, 1, row, column, 4] = 20
    raw.levels[0][0, 0, :, :, 4] = raw.levels[0][0, 1, :, :, 4]
    parts = {name: part.item() for name, part in model.loss(raw, [truth]).items()}
    assert parts == pytest.approx({"box": 0, "objectness": 0, "class": 0}, abs=1e-5)


def test_an_empty_image_moves_objectness_alone(model: Yolo) -> None:
    raw = Raw(tuple(level.clone().requires_grad_() for level in _raw(fill=0.0).levels))
    parts = model.loss(raw, [_truth([], [])])
    assert parts["box"].item() == parts["class"].item() == 0
    sum(parts.values()).backward()
    for level in raw.levels:
        assert (level.grad[..., 4] > 0).all()  # down with every objectness
        assert (level.grad[..., :4] == 0).all()
        assert (level.grad[..., 5:] == 0).all()


def test_an_object_teaches_only_its_own_cells_boxes_and_classes(model: Yolo) -> None:
    raw = Raw(tuple(level.clone().requires_grad_() for level in _raw(fill=0.0).levels))
    sum(model.loss(raw, [_truth([[38, 14, 47, 39]], [1])]).values()).backward()
    touched = [tuple(i.tolist()) for i in (raw.levels[0].grad[0, ..., 5:].abs().sum(-1) > 0).nonzero()]
    own = (1, 3, 5)  # anchor 8x24, midpoint (42.5, 26.5) in row 3, column 5
    assert own in touched
    assert all(abs(row - 3) + abs(column - 5) <= 1 for _, row, column in touched)
    gradient = raw.levels[0].grad[0][own]
    assert gradient[5] > 0  # class a down
    assert gradient[6] < 0  # class b up
    assert gradient[:4].abs().sum() > 0


def test_crowds_silence_objectness_inside_and_nothing_else(model: Yolo) -> None:
    raw = Raw(tuple(level.clone().requires_grad_() for level in _raw(fill=0.0).levels))
    sum(model.loss(raw, [_truth([[0, 0, 40, 64]], [0], [True])]).values()).backward()
    columns = raw.levels[0].grad[0, 0, :, :, 4].abs().sum(0)
    assert (columns[:5] == 0).all()  # cell centres 4 .. 36 px lie inside
    assert (columns[5:] > 0).all()


def test_gains_weigh_the_parts() -> None:
    truth = [_truth([[38, 14, 47, 39]], [1])]
    plain = Yolo(YoloSettings("lenet5", False, 16, 2, box_gain=1, objectness_gain=1, class_gain=1), "ab", ANCHORS)
    heavy = Yolo(YoloSettings("lenet5", False, 16, 2, box_gain=2, objectness_gain=3, class_gain=4), "ab", ANCHORS)
    one, many = plain.loss(_raw(), truth), heavy.loss(_raw(), truth)
    assert [many[k].item() / one[k].item() for k in ("box", "objectness", "class")] == pytest.approx([2, 3, 4])


def _with(model: Yolo, **changes: object) -> Yolo:
    """A network without weights of its own, for its loss: the settings changed, the anchors and classes the same."""
    return Yolo(replace(model.settings, **changes), model.class_names, ANCHORS)


PARTS = [("shape", "bce"), ("shape", "focal"), ("shape", "quality"), ("simota", "bce"), ("simota", "quality")]


@pytest.mark.parametrize(("assign", "objectness"), PARTS)
def test_no_objects_and_only_crowds(model: Yolo, assign: str, objectness: str) -> None:
    chosen = _with(model, assign=assign, objectness=objectness)
    for truth in (_truth([], []), _truth([[0, 0, 96, 64]], [0], [True])):
        raw = Raw(tuple(level.clone().requires_grad_() for level in _raw(fill=0.0).levels))
        parts = chosen.loss(raw, [truth])
        assert parts["box"].item() == parts["class"].item() == 0
        assert math.isfinite(parts["objectness"].item())
        assert (parts["objectness"].item() == 0) == (len(truth) == 1)  # the crowd covers every cell
        sum(parts.values()).backward()
        for level in raw.levels:
            assert torch.isfinite(level.grad).all()


@pytest.mark.parametrize(("assign", "objectness"), PARTS)
def test_descending_the_loss_finds_the_objects(model: Yolo, assign: str, objectness: str) -> None:
    """The raw output itself is trained: whatever assigns and whatever scores, the truth must come out on top."""
    chosen = _with(model, assign=assign, objectness=objectness)
    truth = _truth([[38, 14, 47, 39], [2, 3, 60, 50], [70, 10, 95, 30]], [1, 0, 1])
    raw = Raw(tuple(level.clone().requires_grad_() for level in _raw(fill=-3.0).levels))
    optimizer = torch.optim.Adam(raw.levels, lr=0.3)
    for _ in range(80):
        optimizer.zero_grad()
        parts = chosen.loss(raw, [truth])
        sum(parts.values()).backward()
        optimizer.step()
    assert parts["box"].item() < 0.15
    assert parts["class"].item() < 0.05
    boxes, scores, _ = chosen.decode(raw)
    gap = (boxes[0, :, None] - torch.from_numpy(truth.boxes_xyxy)).abs().amax(2)  # [N, M]
    for target, label in enumerate(truth.labels):
        assert scores[0, gap[:, target] < 2, label].max() > 0.5
    assert scores[0, gap.amin(1) > 10].max() < 0.1


def test_focal_and_quality_objectness_by_hand(model: Yolo) -> None:
    # all logits 0, so p = 1/2: cross-entropy ln 2 whatever is wanted; 252 slots, of which the box of
    # 9 x 25 takes 9: both anchors of stride 8 (8x8 by 3.1, 8x24) in 3 cells and 32x32 of stride 16 (by 3.6) in 3
    truth, raw = [_truth([[38, 14, 47, 39]], [1])], _raw(fill=0.0)
    empty = 252 - 9  # and a gain of 5 stands for a weight of 1 on what is a sum per match
    focal = _with(model, objectness="focal", objectness_gain=5.0).loss(raw, truth)["objectness"].item()
    assert focal == pytest.approx((9 * 0.25 + empty * 0.75) / 4 * math.log(2) / 9)
    perfect = _raw(fill=0.0)
    for level in perfect.levels:
        level[..., :4] = -50.0  # boxes without area: the IoU reached is 0
    quality = _with(model, objectness="quality", objectness_gain=5.0).loss(perfect, truth)["objectness"].item()
    assert quality == pytest.approx(252 / 4 * math.log(2) / 9)


@pytest.mark.parametrize("objectness", ["focal", "quality"])
def test_crowds_silence_focal_objectness_too(model: Yolo, objectness: str) -> None:
    raw = Raw(tuple(level.clone().requires_grad_() for level in _raw(fill=0.0).levels))
    truth = _truth([[0, 0, 40, 64]], [0], [True])
    sum(_with(model, objectness=objectness).loss(raw, [truth]).values()).backward()
    columns = raw.levels[0].grad[0, 0, :, :, 4].abs().sum(0)
    assert (columns[:5] == 0).all()
    assert (columns[5:] > 0).all()


@pytest.mark.parametrize("assign", ["shape", "simota"])
def test_a_network_gone_wrong_shows_in_the_loss_and_nowhere_else(model: Yolo, assign: str) -> None:
    raw, truth = _raw(fill=0.0), [_truth([[38, 14, 47, 39], [2, 3, 60, 50]], [1, 0])]
    raw.levels[0][:, :, :, :6] = math.nan
    parts = _with(model, assign=assign).loss(raw, truth)
    assert not math.isfinite(sum(parts.values()).item())


def test_label_smoothing_by_hand(model: Yolo) -> None:
    truth, raw = [_truth([[38, 14, 47, 39]], [1])], _raw(fill=0.0)
    for level in raw.levels:
        level[..., 6] = math.log(3)  # the true class at 3/4, the other at 1/2
    yes, no = math.log(4) - math.log(3), math.log(4)  # cross-entropy of 3/4 with 1 and with 0
    for smoothing in (0.0, 0.2):
        loss = _with(model, label_smoothing=smoothing, class_gain=1.0).loss(raw, truth)["class"].item()
        half = smoothing / 2
        assert loss == pytest.approx((1 - half) * yes + half * no + math.log(2))  # a mean over the matches


def test_ways_of_training_are_checked_and_stay_out_of_the_card() -> None:
    for wrong in (
        {"assign": "tal"},
        {"objectness": "IoU"},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"label_smoothing": math.nan},
    ):
        with pytest.raises(ValueError, match=f"model.{next(iter(wrong))} is "):
            YoloSettings(**wrong)
    changed = YoloSettings(assign="simota", objectness="quality", label_smoothing=0.1)
    assert architecture(changed) == architecture(YoloSettings())


def test_stack_targets_of_a_batch_with_empty_images() -> None:
    batch = [_truth([], []), _truth([[1, 2, 3, 4], [5, 6, 7, 8]], [1, 0], [False, True]), _truth([], [])]
    targets = stack_targets(batch)
    assert targets.image_index.tolist() == [1, 1]
    assert targets.labels.tolist() == [1, 0]
    assert targets.boxes_xyxy.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert targets.crowd.tolist() == [False, True]
    assert stack_targets([_truth([], [])]).boxes_xyxy.shape == (0, 4)
