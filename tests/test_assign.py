"""Target assignment: which cell and anchor answers for which box."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from detkit.models.assign import Targets, assign_by_shape  # noqa: E402

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
