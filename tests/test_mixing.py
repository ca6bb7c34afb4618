"""Mosaic, copy-paste and mixup: every painted object keeps its box and its label, and what is hidden stays little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from detkit import boxes
from detkit.detections import Detections
from detkit.train.augment import AugmentSettings, Photo
from detkit.train.loader import PhotoCanvases
from detkit.train.mixing import copy_paste, mixup, mosaic

CALM = AugmentSettings(hue_deg=0, saturation=0, brightness=0, contrast=0)
OFF = replace(CALM, mosaic=0, flip=0, stretch=0, zoom=(1.0, 1.0))
CHANNELS = (0, 2)  # the channel a label is painted in; green stays free, so padding and black give 0


def _photo(size_hw: tuple[int, int], boxes_xyxy: list[tuple[int, int, int, int]], label: int = 0) -> Photo:
    """Black, with a rectangle of its label's colour where each box is."""
    image = np.zeros((*size_hw, 3), np.uint8)
    for x1, y1, x2, y2 in boxes_xyxy:
        image[y1:y2, x1:x2, CHANNELS[label]] = 255
    truth = Detections(size_hw, np.array(boxes_xyxy, np.float32).reshape(-1, 4), np.full(len(boxes_xyxy), label))
    return image, truth


def _painted(canvas: np.ndarray, label: int) -> np.ndarray:
    """Bool [S, S]: where that colour is at least half as strong as it can be there."""
    strength = canvas[..., CHANNELS[label]].astype(int) - canvas[..., 1]
    return strength > min(127, strength.max() / 2) if strength.max() > 20 else np.zeros(strength.shape, bool)


def _extent(mask: np.ndarray) -> list[float]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def _check_all_boxed(canvas: np.ndarray, truth: Detections) -> None:
    """Every painted pixel lies in a box of its label, but for slivers too thin to keep a box."""
    for label in (0, 1):
        bare = _painted(canvas, label)
        for x1, y1, x2, y2 in truth.boxes_xyxy[truth.labels == label]:
            bare[max(int(y1 - 1.5), 0) : int(y2 + 2.5), max(int(x1 - 1.5), 0) : int(x2 + 2.5)] = False
        assert bare.sum() <= 2 * len(canvas)


def _check_tight(canvas: np.ndarray, truth: Detections, apart_px: float = 2) -> int:
    """Boxes well apart from the others end where their objects end; how many were looked at."""
    grown = truth.boxes_xyxy + np.array([-apart_px, -apart_px, apart_px, apart_px])
    touching = boxes.ioa_matrix(grown, grown) > 0
    alone = np.flatnonzero(touching.sum(1) == 1)
    for row in alone:
        mask = np.zeros(canvas.shape[:2], bool)
        x1, y1, x2, y2 = np.maximum(grown[row], 0).astype(int)
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
        mask &= _painted(canvas, int(truth.labels[row]))
        assert truth.boxes_xyxy[row] == pytest.approx(_extent(mask), abs=1.5)
    return len(alone)


PHOTOS = [
    _photo((90, 120), [(40, 30, 80, 60)], 0),
    _photo((200, 140), [(20, 30, 60, 70), (70, 120, 130, 190)], 1),
    _photo((75, 160), [], 0),
    _photo((310, 230), [(100, 100, 180, 220)], 0),
    _photo((64, 64), [(8, 8, 56, 56)], 1),
]
ALONE = {
    "mosaic": {"mosaic": 1.0, "zoom": (0.7, 1.6)},
    "mixup": {"mixup": 1.0},
    "copy_paste": {"copy_paste": 1.0},
    "iou_crop": {"iou_crop": 1.0},
    "flip": {"flip": 1.0},
    "all but turning": {"mosaic": 0.5, "copy_paste": 0.5, "iou_crop": 0.5, "zoom": (0.5, 2.0), "flip": 0.5},
}


@pytest.mark.parametrize("name", ALONE)
def test_each_part_alone_keeps_boxes_on_their_objects(name: str) -> None:
    maker = PhotoCanvases(PHOTOS, replace(OFF, **ALONE[name]))
    looked = 0
    for seed in range(100):
        canvas, truth = maker.make(seed % 5, 160, np.random.default_rng(seed), closed=False)
        assert (truth.size_hw, canvas.shape, canvas.dtype) == ((160, 160), (160, 160, 3), np.uint8)
        _check_all_boxed(canvas, truth)
        if name != "mixup":  # a blended object is as strong as the padding under it allows
            looked += _check_tight(canvas, truth, apart_px=20 if "copy_paste" in ALONE[name] else 2)
        else:
            looked += len(truth)
    assert looked > 12


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), side=st.sampled_from([64, 96, 160]), turn=st.sampled_from([0.0, 15.0, 180.0]))
def test_everything_at_once_keeps_each_object_boxed(seed: int, side: int, turn: float) -> None:
    shares = dict.fromkeys(("mosaic", "mixup", "copy_paste", "iou_crop", "flip"), 0.5)
    maker = PhotoCanvases(PHOTOS, replace(CALM, **shares, rotation_deg=turn, shear_deg=turn / 6, zoom=(0.3, 2.5)))
    canvas, truth = maker.make(seed % 5, side, np.random.default_rng(seed), closed=False)
    assert (truth.boxes_xyxy >= 0).all()
    assert (truth.boxes_xyxy <= side).all()
    _check_all_boxed(canvas, truth)


def test_mosaic_keeps_each_box_on_its_own_photo() -> None:
    for seed in range(30):
        four = [_photo((90, 120), [(40, 30, 80, 60)] if k == seed % 4 else []) for k in range(4)]
        canvas, truth = mosaic(four, 160, np.random.default_rng(seed), CALM)
        assert len(truth) <= 1
        _check_tight(canvas, truth)


def test_mixup_is_the_mean_and_keeps_both_truths() -> None:
    a, b = _photo((64, 64), [(8, 8, 40, 40)], 0), _photo((64, 64), [(20, 30, 60, 60)], 1)
    image, truth = mixup(a, b)
    assert np.abs(image.astype(float) - (a[0].astype(float) + b[0]) / 2).max() <= 0.5
    assert truth.boxes_xyxy.tolist() == [[8, 8, 40, 40], [20, 30, 60, 60]]
    assert truth.labels.tolist() == [0, 1]


def test_pasting_covers_at_most_a_third_and_keeps_the_pixels() -> None:
    canvas = _photo((128, 128), [(20, 20, 70, 70), (60, 60, 110, 125)], 0)
    before, pasted = canvas[0].copy(), 0
    for seed in range(40):
        image, truth = copy_paste(canvas, PHOTOS, np.random.default_rng(seed), OFF)
        assert truth.boxes_xyxy[:2].tolist() == canvas[1].boxes_xyxy.tolist()
        for x1, y1, x2, y2 in canvas[1].boxes_xyxy.astype(int):
            gone = (image[y1:y2, x1:x2, 0] < 128) & (canvas[0][y1:y2, x1:x2, 0] == 255)
            assert gone.mean() <= 0.3
        pasted += len(truth) - 2
    assert pasted > 40
    assert np.array_equal(canvas[0], before)


def test_a_pasted_object_is_opaque_and_its_edge_is_soft() -> None:
    source = (
        np.full((100, 100, 3), 200, np.uint8),
        Detections((100, 100), np.array([[40.0, 40, 60, 60]]), np.array([1])),
    )
    blank = np.zeros((100, 100, 3), np.uint8), Detections.empty((100, 100), scored=False)
    image, truth = copy_paste(blank, [source], np.random.default_rng(0), OFF)
    x1, y1, x2, y2 = (round(float(v)) for v in truth.boxes_xyxy[0])
    assert (x2 - x1, y2 - y1) == (20, 20)
    assert (image[y1:y2, x1:x2] == 200).all()
    edge = image[y1 + 10, x2 : x2 + 4, 0].tolist()
    assert edge == sorted(edge, reverse=True)
    assert 200 > edge[0] > edge[1] > edge[3] == 0


def test_what_cannot_be_pasted_is_left_out() -> None:
    blank = np.zeros((128, 128, 3), np.uint8), Detections.empty((128, 128), scored=False)
    tiny, empty = _photo((64, 64), [(5, 5, 8, 8)]), _photo((64, 64), [])
    image, truth = _photo((64, 64), [(20, 20, 45, 45)])
    assert len(copy_paste(blank, [(image, truth)], np.random.default_rng(0), OFF)[1]) == 1
    crowd = image, replace(truth, crowd=np.array([True]))
    image, truth = copy_paste(blank, [tiny, empty, crowd], np.random.default_rng(0), OFF)
    assert len(truth) == 0
    assert not image.any()


def test_neighbours_come_along_with_a_pasted_object() -> None:
    image, truth = _photo((100, 100), [(30, 30, 60, 60), (50, 30, 58, 60)], 0)
    blank = np.zeros((100, 100, 3), np.uint8), Detections.empty((100, 100), scored=False)
    labelled = image, replace(truth, labels=np.array([0, 1]))
    for seed in range(10):
        _, pasted = copy_paste(blank, [labelled], np.random.default_rng(seed), OFF)
        assert set(pasted.labels.tolist()) == {0, 1}


def test_closed_shows_one_photo_only() -> None:
    shares = dict.fromkeys(("mosaic", "mixup", "copy_paste"), 1.0)
    maker = PhotoCanvases(PHOTOS, replace(OFF, **shares))
    still = PhotoCanvases(PHOTOS, OFF)
    canvas, truth = maker.make(3, 96, np.random.default_rng(1), closed=True)
    expected, _ = still.make(3, 96, np.random.default_rng(1), closed=True)
    assert len(truth) == 1
    assert np.array_equal(canvas, expected)
    mixed, _ = maker.make(3, 96, np.random.default_rng(1), closed=False)
    assert not np.array_equal(canvas, mixed)


def test_crowds_stay_crowds() -> None:
    crowds = [(image, replace(truth, crowd=np.ones(len(truth), bool))) for image, truth in PHOTOS]
    shares = dict.fromkeys(("mosaic", "mixup", "copy_paste", "iou_crop"), 0.5)
    maker = PhotoCanvases(crowds, replace(CALM, **shares))
    for seed in range(30):
        _, truth = maker.make(seed % 5, 96, np.random.default_rng(seed), closed=False)
        assert truth.crowd is not None
        assert truth.crowd.all()


def test_the_photos_are_left_alone() -> None:
    before = [(image.copy(), truth.boxes_xyxy.copy()) for image, truth in PHOTOS]
    shares = dict.fromkeys(("mosaic", "mixup", "copy_paste", "iou_crop", "flip"), 0.5)
    maker = PhotoCanvases(PHOTOS, replace(AugmentSettings(), **shares))
    for seed in range(30):
        maker.make(seed % 5, 96, np.random.default_rng(seed), closed=False)
    for (image, truth), (old_image, old_boxes) in zip(PHOTOS, before, strict=True):
        assert np.array_equal(image, old_image)
        assert np.array_equal(truth.boxes_xyxy, old_boxes)
