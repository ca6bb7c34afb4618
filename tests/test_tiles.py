"""Where tiles lie, and how what was found in them becomes one box an object."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fake_model import write_fake_model
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.boxes import iou_matrix
from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.infer.predictor import Predictor
from detkit.infer.selection import Selection
from detkit.infer.tiles import Tiling, Window, crops, for_windows, merge
from detkit.nms import merge_tiles

SELECTION = Selection(0.1, 0.5)
PAIR = Tiling(100, 0.2).windows((100, 180))  # the whole, and tiles at x 0-100 and 80-180


def seen(windows: tuple[Window, ...], at: dict[int, list[tuple]], points: bool = False) -> list[Detections]:
    """For each window the detections given as (x1, y1, x2, y2, label, score) on the photo, in the window's pixels."""
    found = []
    for k, w in enumerate(windows):
        rows = np.array(at.get(k, []), np.float32).reshape(-1, 6)
        boxes = rows[:, :4] - np.array([w.x1, w.y1, w.x1, w.y1], np.float32)
        points_xyv = np.stack([[[*box[:2], 2]] for box in boxes]) if points and len(boxes) else None
        found.append(Detections(w.size_hw, boxes, rows[:, 4].astype(int), rows[:, 5], points_xyv))
    return found


def boxes_of(found: Detections) -> list[list[float]]:
    return found.boxes_xyxy.tolist()


# ---- where they lie ----------------------------------------------------------------------------------------------


def test_tiles_cover_a_photo_and_the_last_ones_stay_inside() -> None:
    windows = Tiling(100, 0.2).windows((100, 250))
    assert [window.edges for window in windows] == [
        (0, 0, 250, 100),
        (0, 0, 100, 100),
        (75, 0, 175, 100),
        (150, 0, 250, 100),
    ]
    grid = Tiling(64, 0.0).windows((128, 192))
    assert [w.edges[:2] for w in grid[1:]] == [(x, y) for y in (0, 64) for x in (0, 64, 128)]
    assert {w.size_hw for w in grid[1:]} == {(64, 64)}


@pytest.mark.parametrize("size_hw", [(100, 100), (1, 1), (100, 3), (40, 99)])
def test_a_photo_no_larger_than_a_tile_is_looked_at_once(size_hw: tuple[int, int]) -> None:
    assert [w.edges for w in Tiling(100, 0.2).windows(size_hw)] == [(0, 0, size_hw[1], size_hw[0])]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(32, 400), st.floats(0, 0.9))
def test_every_pixel_is_in_a_tile_and_neighbours_share_enough(h: int, w: int, side: int, overlap: float) -> None:
    windows = Tiling(side, overlap).windows((h, w))
    assert windows[0].edges == (0, 0, w, h)
    if max(h, w) <= side:
        assert len(windows) == 1
        return
    tiles = windows[1:]
    assert {tile.size_hw for tile in tiles} == {(min(h, side), min(w, side))}
    for length, starts in ((w, sorted({t.x1 for t in tiles})), (h, sorted({t.y1 for t in tiles}))):
        assert starts[0] == 0
        assert starts[-1] == max(0, length - side)
        assert all(side - (b - a) >= side * overlap - 1 for a, b in pairwise(starts))
    assert len(tiles) == len({t.x1 for t in tiles}) * len({t.y1 for t in tiles})


@pytest.mark.parametrize("wrong", [(31, 0.2), (640, -0.1), (640, 0.95), (640, float("nan"))])
def test_tiles_out_of_range_are_refused(wrong: tuple[int, float]) -> None:
    with pytest.raises(UsageError, match=r"tile"):
        Tiling(*wrong)


def test_crops_show_the_photo_where_the_windows_lie() -> None:
    photo = np.arange(60 * 90 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 90, 3)
    windows = Tiling(50, 0.0).windows((60, 90))
    shown = crops(photo, windows)
    assert [crop.shape[:2] for crop in shown] == [window.size_hw for window in windows]
    np.testing.assert_array_equal(shown[4], photo[10:60, 40:90])
    assert all(np.shares_memory(crop, photo) for crop in shown)


# ---- one box an object -------------------------------------------------------------------------------------------


def test_nothing_found_in_any_window_is_empty_detections() -> None:
    found = merge(seen(PAIR, {}), PAIR, SELECTION)
    assert len(found) == 0
    assert found.size_hw == (100, 180)
    kept, boxes = merge_tiles([], [], [], np.zeros((0, 4)), 0.5)
    assert (kept.shape, boxes.shape) == ((0,), (0, 4))


def test_one_window_gives_what_it_saw() -> None:
    windows = Tiling(200).windows((100, 180))
    one = seen(windows, {0: [(0, 0, 10, 10, 1, 0.9), (50, 50, 60, 70, 0, 0.4)]})
    assert merge(one, windows, SELECTION) == one[0]
    assert len(merge(one, windows, Selection(0.1, 0.5, max_det=1))) == 1


def test_an_object_two_windows_see_whole_is_one_box() -> None:
    found = merge(seen(PAIR, {1: [(83, 40, 97, 60, 0, 0.6)], 2: [(84, 40, 98, 60, 0, 0.8)]}), PAIR, SELECTION)
    assert boxes_of(found) == [[84, 40, 98, 60]]


def test_a_part_goes_in_favour_of_the_object_a_neighbour_sees_whole_even_when_it_scores_higher() -> None:
    found = merge(seen(PAIR, {1: [(90, 40, 99.5, 60, 0, 0.9)], 2: [(90, 40, 115, 60, 0, 0.3)]}), PAIR, SELECTION)
    assert boxes_of(found) == [[90, 40, 115, 60]]
    assert found.scores.tolist() == pytest.approx([0.3])


def test_a_large_object_is_not_cut_into_pieces() -> None:
    """It fills both tiles; only the whole photo shows all of it."""
    found = seen(PAIR, {0: [(10, 5, 170, 95, 0, 0.5)], 1: [(12, 5, 100, 95, 0, 0.9)], 2: [(80, 5, 169, 95, 0, 0.8)]})
    assert boxes_of(merge(found, PAIR, SELECTION)) == [[10, 5, 170, 95]]


def test_parts_that_continue_each_other_are_joined() -> None:
    found = merge(seen(PAIR, {1: [(30, 40, 99.5, 60, 0, 0.6)], 2: [(80, 41, 140, 60, 0, 0.8)]}, True), PAIR, SELECTION)
    assert boxes_of(found) == [[30, 40, 140, 60]]
    assert found.scores.tolist() == pytest.approx([0.8])
    assert found.points_xyv.tolist() == [[[80, 41, 2]]]  # those of the better part


def test_parts_of_four_tiles_are_joined() -> None:
    windows = Tiling(100, 0.0).windows((200, 200))
    quarters = {1: (60, 70, 100, 100), 2: (100, 70, 150, 100), 3: (60, 100, 100, 130), 4: (100, 100, 150, 130)}
    found = seen(windows, {k: [(*box, 0, 0.5 + k / 10)] for k, box in quarters.items()})
    assert boxes_of(merge(found, windows, SELECTION)) == [[60, 70, 150, 130]]


def test_parts_of_three_tiles_in_a_row_are_joined() -> None:
    windows = Tiling(100, 0.1).windows((100, 280))
    parts = {1: (40, 10, 100, 30), 2: (90, 10, 190, 30), 3: (180, 10, 230, 30)}
    found = seen(windows, {k: [(*box, 0, 0.5)] for k, box in parts.items()})
    assert boxes_of(merge(found, windows, SELECTION)) == [[40, 10, 230, 30]]


def test_neighbours_that_only_meet_at_an_edge_stay_apart() -> None:
    """Other heights, another class, or not up to the edge: two objects."""
    left = (30, 40, 100, 60, 0, 0.6)
    for right in ((80, 55, 140, 90, 0, 0.8), (80, 40, 140, 60, 1, 0.8), (85, 40, 140, 60, 0, 0.8)):
        assert len(merge(seen(PAIR, {1: [left], 2: [right]}), PAIR, SELECTION)) == 2
    agnostic = Selection(0.1, 0.5, nms="agnostic")
    joined = merge(seen(PAIR, {1: [left], 2: [(80, 40, 140, 60, 1, 0.8)]}), PAIR, agnostic)
    assert (boxes_of(joined), joined.labels.tolist()) == ([[30, 40, 140, 60]], [1])


def test_a_part_nobody_continues_stays() -> None:
    assert boxes_of(merge(seen(PAIR, {1: [(60, 40, 100, 60, 0, 0.6)]}), PAIR, SELECTION)) == [[60, 40, 100, 60]]


def test_the_photos_own_edge_cuts_nothing() -> None:
    """The smaller one ends at the photo's border and lies by half in the other: it is an object of its own."""
    found = merge(seen(PAIR, {1: [(5, 5, 70, 70, 0, 0.6), (0, 0, 20, 20, 0, 0.5)]}), PAIR, SELECTION)
    assert len(found) == 2


def test_what_lies_in_a_joined_box_goes_too() -> None:
    """Three tiles see an object; the middle one only its lower part, too flat to continue the others."""
    windows = Tiling(100, 0.6).windows((100, 180))
    parts = {1: (20, 40, 100, 60, 0, 0.5), 2: (40, 47, 140, 60, 0, 0.9), 3: (80, 40, 170, 60, 0, 0.6)}
    assert boxes_of(merge(seen(windows, {k: [v] for k, v in parts.items()}), windows, SELECTION)) == [[20, 40, 170, 60]]


def test_of_the_whole_photo_only_what_tiles_may_cut_counts() -> None:
    """Tiles share 20 px: what is no longer than that is whole, and larger, in a tile."""
    found = merge(seen(PAIR, {0: [(10, 10, 30, 20, 0, 0.9), (50, 10, 71, 20, 0, 0.8)]}), PAIR, SELECTION)
    assert boxes_of(found) == [[50, 10, 71, 20]]


def test_the_limit_holds_for_the_photo() -> None:
    row = [(5 + 10 * k, 10, 11 + 10 * k, 20, 0, 0.9 - k / 100) for k in range(6)]
    limit = Selection(0.1, 0.5, max_det=3)
    assert for_windows(limit).max_det == limit.max_candidates
    assert merge(seen(PAIR, {1: row}), PAIR, limit).scores.tolist() == pytest.approx([0.9, 0.89, 0.88])


@st.composite
def many(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Boxes in the windows of a photo of 200 x 200, snapped to edges now and then, with scores that all differ."""
    windows = Tiling(100, 0.2).windows((200, 200))
    count = draw(st.integers(0, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    origin = rng.integers(0, len(windows), count)
    edges = np.array([w.edges for w in windows], np.float32)[origin].reshape(-1, 4)
    corners = edges[:, :2] + rng.uniform(0, 80, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(2, 60, (count, 2))], 1).astype(np.float32)
    boxes = np.clip(boxes, edges[:, [0, 1, 0, 1]], edges[:, [2, 3, 2, 3]])
    cut = np.array([windows[w].cut_sides(box[None])[0] for w, box in zip(origin, boxes, strict=True)], bool)
    scores = rng.permutation(count).astype(np.float32) / 32 + 0.01
    return (
        np.where(cut.reshape(-1, 4), edges, boxes),
        scores,
        rng.integers(0, 2, count),
        cut.reshape(-1, 4),
        rng.permutation(count),
    )


@settings(max_examples=150, deadline=None)
@given(many())
def test_merging_leaves_no_doubles_and_does_not_depend_on_the_order(case: tuple[np.ndarray, ...]) -> None:
    boxes, scores, labels, cut, order = case
    kept, placed = merge_tiles(boxes, scores, labels, cut, 0.5)
    again, placed_again = merge_tiles(boxes[order], scores[order], labels[order], cut[order], 0.5)
    np.testing.assert_array_equal(order[again], kept)
    np.testing.assert_array_equal(placed_again, placed)
    assert len(set(kept.tolist())) == len(kept)
    assert (np.diff(scores[kept]) <= 0).all()
    same = labels[kept][:, None] == labels[kept]
    assert (np.where(same, iou_matrix(placed, placed), 0) - np.eye(len(kept)) <= 0.5).all()
    assert (placed[:, :2] <= boxes[kept, :2]).all()  # a box that stays only grows
    assert (placed[:, 2:] >= boxes[kept, 2:]).all()
    whole = ~cut.any(axis=1)
    assert not (iou_matrix(boxes[whole], placed).max(axis=1, initial=0)[: len(boxes)] <= 0).any()  # none is lost


# ---- on photos ---------------------------------------------------------------------------------------------------


def test_a_small_object_is_found_in_its_tile_only(tmp_path: Path) -> None:
    """The fake network scores quarters of its canvas by how red they are: 32 px square are a quarter of a tile."""
    photo = np.zeros((256, 256, 3), np.uint8)
    photo[64:96, 128:160, 0] = 255
    predictor = Predictor(write_fake_model(tmp_path / "m.onnx"), conf=0.5)
    assert len(predictor.predict(photo)) == 0
    windows = Tiling(64, 0.0).windows((256, 256))
    found = merge(predictor.predict_batch(crops(photo, windows)), windows, predictor.selection)
    assert boxes_of(found) == [[128, 64, 160, 96]]


def test_labelled_nuclei_cut_by_tiles_are_put_together_again(shared_data: Path) -> None:
    """The geometry of real data, hundreds of objects that touch each other: what a perfect network would see."""
    tree = json.loads((shared_data / "nuclei" / "annotations" / "instances_val.json").read_text("utf-8"))
    for image in (image for image in tree["images"] if image["width"] >= 1000):
        rows = [row["bbox"] for row in tree["annotations"] if row["image_id"] == image["id"]]
        truth = np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float32)
        windows = Tiling(320, 0.2).windows((image["height"], image["width"]))
        found = []
        for window in windows:
            x1, y1, x2, y2 = window.edges
            boxes = np.clip(truth, (x1, y1, x1, y1), (x2, y2, x2, y2)) - (x1, y1, x1, y1)
            boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
            found.append(Detections(window.size_hw, boxes, np.zeros(len(boxes), int), np.full(len(boxes), 0.9)))
        merged = merge(found, windows, Selection(0.1, 0.99, max_det=1000))
        overlap = iou_matrix(truth, merged.boxes_xyxy)
        assert (overlap.max(axis=1) > 0.9).mean() > 0.97  # those lost or grown touch another nucleus at an edge
        assert len(merged) <= 1.03 * len(truth)
