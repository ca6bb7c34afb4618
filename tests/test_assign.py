"""Target assignment: which cell and anchor answers for which box."""

from __future__ import annotations

import itertools
import math

import pytest

torch = pytest.importorskip("torch")

from detkit.models.assign import Matches, Targets, assign_by_shape, assign_by_simota  # noqa: E402

ANCHORS = torch.tensor([[[10.0, 10.0], [10.0, 40.0]], [[60.0, 60.0], [120.0, 60.0]]])  # [L=2, A=2, 2]
GRIDS, STRIDES = [(8, 12), (4, 6)], [8, 16]  # a canvas of 64 x 96 pixels: not square


def _targets(boxes: list[list[float]], crowd: list[bool] | None = None, image: list[int] | None = None) -> Targets:
    count = len(boxes)
    return Targets(
        torch.tensor(image or [0] * count, dtype=torch.int64),
        torch.zeros(count, dtype=torch.int64),
        torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
        torch.tensor(crowd or [False] * count, dtype=torch.bool),
    )


def _rows(match: object) -> set[tuple[int, ...]]:
    return set(zip(*(column.tolist() for column in match), strict=True))


def test_no_targets() -> None:
    assert [len(m.target) for m in assign_by_shape(_targets([]), GRIDS, STRIDES, ANCHORS, 2.0)] == [0, 0]


def test_one_small_box_by_hand() -> None:
    # midpoint (34, 21): stride 8 gives cell x 4.25, y 2.625: own (4, 2), neighbours (3, 2) and (4, 3)
    fine, coarse = assign_by_shape(_targets([[29, 16, 39, 26]]), GRIDS, STRIDES, ANCHORS, 2.0)
    assert _rows(fine) == {(0, 0, 2, 4, 0), (0, 0, 2, 3, 0), (0, 0, 3, 4, 0)}
    assert len(coarse.target) == 0


def test_neighbours_stay_on_the_canvas() -> None:
    fine, _ = assign_by_shape(_targets([[-4, -4, 6, 6]]), GRIDS, STRIDES, ANCHORS, 2.0)  # midpoint (1, 1)
    assert _rows(fine) == {(0, 0, 0, 0, 0)}
    fine, _ = assign_by_shape(_targets([[90, 58, 100, 68]]), GRIDS, STRIDES, ANCHORS, 2.0)  # midpoint (95, 63)
    assert _rows(fine) == {(0, 0, 7, 11, 0)}


def test_two_objects_of_different_shape_in_one_cell_both_survive() -> None:
    boxes = [[29.0, 16, 39, 26], [29, 1, 39, 41]]  # same midpoint, 10x10 and 10x40
    fine, _ = assign_by_shape(_targets(boxes), GRIDS, STRIDES, ANCHORS, 2.0)
    own = {(anchor, target) for _, anchor, row, column, target in _rows(fine) if (row, column) == (2, 4)}
    assert own == {(0, 0), (1, 1)}


def test_a_slot_answers_for_the_closer_shape_and_own_cells_go_before_neighbours() -> None:
    twins = _targets([[29, 16, 39, 26], [28, 15, 40, 27]])  # one midpoint; the second is 1.2 times the anchor
    fine, _ = assign_by_shape(twins, GRIDS, STRIDES, ANCHORS, 2.0)
    assert {target for *_, target in _rows(fine)} == {0}
    # the first box's neighbour cell (3, 2) is the second's own cell, though the first has the better shape
    apart = _targets([[29, 16, 39, 26], [20, 14, 33, 27]])
    fine, _ = assign_by_shape(apart, GRIDS, STRIDES, ANCHORS, 2.0)
    assert (0, 0, 2, 3, 1) in _rows(fine)
    assert (0, 0, 2, 4, 0) in _rows(fine)


def test_every_slot_is_used_once_and_every_target_keeps_its_image() -> None:
    torch.manual_seed(0)
    corner = torch.rand(300, 2) * torch.tensor([86.0, 54.0])
    boxes = torch.cat([corner, corner + torch.rand(300, 2) * 100 + 4], 1)
    image = torch.randint(0, 4, (300,))
    targets = _targets(boxes.tolist(), image=image.tolist())
    for match, grid, anchors in zip(
        assign_by_shape(targets, GRIDS, STRIDES, ANCHORS, 4.0), GRIDS, ANCHORS, strict=True
    ):
        slots = list(zip(*(c.tolist() for c in match[:4]), strict=True))
        assert len(slots) == len(set(slots)) > 0
        assert torch.equal(match.image, image[match.target])
        assert (match.row < grid[0]).all()
        assert (match.column < grid[1]).all()
        sides = boxes[match.target, 2:] - boxes[match.target, :2]
        ratio = sides / anchors[match.anchor]
        assert torch.maximum(ratio, 1 / ratio).max() < 4.0


def test_crowd_boxes_are_given_to_nobody() -> None:
    matches = assign_by_shape(
        _targets([[29, 16, 39, 26], [20, 0, 80, 60]], crowd=[False, True]), GRIDS, STRIDES, ANCHORS, 4.0
    )
    assert {int(t) for match in matches for t in match.target} == {0}


class _Predictions:
    """What a network might say: each slot its anchor around its cell's centre, all chances a half, two classes."""

    def __init__(self, batch: int = 1) -> None:
        self.boxes, self.logits = [], []
        for (rows, columns), stride, anchors in zip(GRIDS, STRIDES, ANCHORS, strict=True):
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            centre = ((torch.stack([x, y], -1) + 0.5) * stride)[None]  # [1, H, W, 2]
            half = anchors[:, None, None] / 2
            boxes = torch.cat([centre - half, centre + half], -1)  # [A, H, W, 4]
            self.boxes.append(boxes.repeat(batch, 1, 1, 1, 1))
            self.logits.append(torch.zeros(batch, len(anchors), rows, columns, 3))

    def assign(self, targets: Targets, max_ratio: float = 2.0) -> list[Matches]:
        return assign_by_simota(targets, self.boxes, self.logits, STRIDES, ANCHORS, max_ratio)


def test_simota_without_targets() -> None:
    assert [len(m.target) for m in _Predictions().assign(_targets([]))] == [0, 0]
    assert [len(m.target) for m in _Predictions().assign(_targets([[29, 16, 39, 26]], crowd=[True]))] == [0, 0]


def test_simota_one_box_by_hand() -> None:
    # midpoint (34, 21), in cells (4.25, 2.625): the centres (36, 20), (28, 20), (36, 28), (28, 28) are within a cell.
    # A 10 x 10 box around them overlaps by 72/128 + 36/164 + 24/176 + 12/188 = 0.98 in all: one slot, the best
    targets = _targets([[29, 16, 39, 26]])
    fine, coarse = _Predictions().assign(targets)
    assert _rows(fine) == {(0, 0, 2, 4, 0)}
    assert len(coarse.target) == 0
    # one of the worse three now predicts the box itself: 1 + 72/128 + 36/164 + 24/176 = 1.9, still one slot and still
    # the one whose centre lies in the box; once that is perfect too the sum is 2.4 and there are two
    guess = _Predictions()
    guess.boxes[0][0, 0, 3, 3] = targets.boxes_xyxy[0]
    assert _rows(guess.assign(targets)[0]) == {(0, 0, 2, 4, 0)}
    guess.boxes[0][0, 0, 2, 4] = targets.boxes_xyxy[0]
    assert _rows(guess.assign(targets)[0]) == {(0, 0, 2, 4, 0), (0, 0, 3, 3, 0)}


def test_simota_chooses_the_anchor_that_knows_the_class_when_no_box_overlaps() -> None:
    targets = _targets([[29, 11, 39, 31]])  # 10 x 20: within a factor of 2 of both anchors
    guess = _Predictions()
    guess.boxes[0][:] = 500.0  # flat, far away
    guess.logits[0][0, 1, 2, 4] = torch.tensor([2.0, 2.0, -2.0])  # objectness, class 0, class 1
    assert _rows(guess.assign(targets, 2.1)[0]) == {(0, 1, 2, 4, 0)}
    guess.logits[0][0, 0, 2, 4] = torch.tensor([3.0, 2.0, -2.0])
    assert _rows(guess.assign(targets, 2.1)[0]) == {(0, 0, 2, 4, 0)}
    guess.logits[0][0, 0, 2, 4] = torch.tensor([3.0, 2.0, 9.0])  # sure of the other class as well
    assert _rows(guess.assign(targets, 2.1)[0]) == {(0, 1, 2, 4, 0)}


def test_simota_gives_a_disputed_slot_to_the_target_it_predicts_better() -> None:
    near, nearer = [29.0, 16, 39, 26], [30.0, 16, 40, 26]  # the slot predicts (31, 15, 41, 25)
    assert _rows(_Predictions().assign(_targets([near, nearer]))[0]) == {(0, 0, 2, 4, 1)}
    assert _rows(_Predictions().assign(_targets([nearer, near]))[0]) == {(0, 0, 2, 4, 0)}
    in_two_images = _Predictions(2).assign(_targets([near, nearer], image=[1, 0]))[0]
    assert _rows(in_two_images) == {(1, 0, 2, 4, 0), (0, 0, 2, 4, 1)}


def test_simota_stays_on_the_canvas_and_within_reach() -> None:
    fine, _ = _Predictions().assign(_targets([[-8, 7, 2, 17]]))  # midpoint (-3, 12): less than 8 from (4, 12)
    assert _rows(fine) == {(0, 0, 1, 0, 0)}
    for beyond in (
        [-10.0, 7, 0, 17],
        [94.0, 40, 106, 52],
        [-500.0, -500, -490, -490],
    ):  # -5: nine from the cell's centre
        assert [len(m.target) for m in _Predictions().assign(_targets([beyond]))] == [0, 0]
    guess, in_the_middle = _Predictions(), _targets([[31, 15, 41, 25]])  # on a cell's centre: no neighbour reaches it
    guess.boxes[0][:] = in_the_middle.boxes_xyxy[0]
    assert _rows(guess.assign(in_the_middle)[0]) == {(0, 0, 2, 4, 0)}
    for misshapen in ([0.0, 30, 90, 31], [30.0, 30, 30, 40]):  # 90 x 1 and without width: no anchor has that shape
        assert [len(m.target) for m in _Predictions().assign(_targets([misshapen]), 4.0)] == [0, 0]


def test_simota_leaves_no_gradient() -> None:
    guess = _Predictions()
    guess.logits[0].requires_grad_()
    guess.boxes[0].requires_grad_()
    guess.assign(_targets([[29, 16, 39, 26]]))
    assert guess.logits[0].grad is None


def _simota_oracle(targets: Targets, guess: _Predictions, max_ratio: float) -> list[set[tuple[int, ...]]]:
    """The paper's page slot by slot, in plain Python floats."""
    taken: dict[tuple[int, ...], tuple[float, int]] = {}  # (level, image, anchor, row, column) -> (cost, target)
    for target, (x1, y1, x2, y2) in enumerate(targets.boxes_xyxy.tolist()):
        if targets.crowd[target]:
            continue
        image, label = int(targets.image_index[target]), int(targets.labels[target])
        mid_x, mid_y = (x1 + x2) / 2, (y1 + y2) / 2
        options = []
        for level, ((rows, columns), stride) in enumerate(zip(GRIDS, STRIDES, strict=True)):
            for anchor, row, column in itertools.product(range(len(ANCHORS[level])), range(rows), range(columns)):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                in_box = x1 < x < x2 and y1 < y < y2
                in_centre = abs(x - mid_x) < 2.5 * stride and abs(y - mid_y) < 2.5 * stride
                decodable = abs(x - mid_x) < stride and abs(y - mid_y) < stride
                for side, wanted in zip(ANCHORS[level][anchor].tolist(), (x2 - x1, y2 - y1), strict=True):
                    decodable &= 1 / max_ratio < wanted / side < max_ratio
                if (in_box or in_centre) and decodable:
                    place = image, anchor, row, column
                    iou = _iou(guess.boxes[level][place].tolist(), [x1, y1, x2, y2])
                    objectness, *classes = (1 / (1 + math.exp(-t)) for t in guess.logits[level][place].tolist())
                    scores = [math.sqrt(objectness * c) for c in classes]
                    entropy = -sum(math.log(s if k == label else 1 - s) for k, s in enumerate(scores))
                    cost = entropy - 3 * math.log(iou + 1e-8) + (0 if in_box and in_centre else 1e5)
                    options.append((cost, iou, (level, *place)))
        best = sorted((iou for _, iou, _ in options), reverse=True)[:10]
        for cost, _, slot in sorted(options)[: max(1, int(sum(best)))]:
            taken[slot] = min(taken.get(slot, (math.inf, 0)), (cost, target))
    return [{(*s[1:], target) for s, (_, target) in taken.items() if s[0] == i} for i in range(len(GRIDS))]


def _iou(a: list[float], b: list[float]) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


@pytest.mark.parametrize("seed", range(12))
def test_simota_agrees_with_a_plain_python_oracle(seed: int) -> None:
    torch.manual_seed(seed)
    guess, count = _Predictions(2), 25
    for i in range(len(GRIDS)):
        guess.boxes[i] = guess.boxes[i] + torch.randn_like(guess.boxes[i])  # around the anchors, as after some training
        guess.logits[i] = torch.randn_like(guess.logits[i]) * 2
    middle = torch.rand(count, 2) * torch.tensor([100.0, 70.0]) - 3
    half = ANCHORS.flatten(0, 1)[torch.randint(0, 4, (count,))] * (torch.rand(count, 2) + 0.6) / 2
    targets = Targets(
        torch.randint(0, 2, (count,)),
        torch.randint(0, 2, (count,)),
        torch.cat([middle - half, middle + half], 1),
        torch.rand(count) < 0.1,
    )
    found = guess.assign(targets, 4.0)
    assert [_rows(match) for match in found] == _simota_oracle(targets, guess, 4.0)
    for match in found:
        assert len(match.target) == len(_rows(match)) > 0


def test_simota_looks_at_few_slots_of_a_crowded_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    import detkit.models.assign as module

    torch.manual_seed(0)
    looked_at = []
    cost = module._simota_cost
    monkeypatch.setattr(module, "_simota_cost", lambda *a: looked_at.append(len(a[1].target)) or cost(*a))
    corner = torch.rand(300, 2) * torch.tensor([80.0, 50.0])
    targets = _targets(torch.cat([corner, corner + torch.rand(300, 2) * 60 + 8], 1).tolist())
    guess = _Predictions()
    first, second = guess.assign(targets, 4.0), guess.assign(targets, 4.0)
    assert max(looked_at) <= 300 * ANCHORS.shape[1] * 4  # not 300 times every slot
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert len({row[:4] for row in _rows(a)}) == len(a.target) > 0
