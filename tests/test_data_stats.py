"""What a data set holds, by hand-computed figures; boxes on a canvas; the contact sheet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detkit.data.canvas import boxes_on_canvas
from detkit.data.dataset import Dataset, Sample
from detkit.data.sheet import WIDTH_PX, choose, contact_sheet
from detkit.data.stats import describe
from detkit.detections import Detections
from detkit.draw import class_color
from detkit.images import write_image


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three photos of 200x100: four boxes and a crowd, one box, none; classes ant (4), bee (1), and cow (0)."""
    boxes = [
        ([[0, 0, 32, 32], [0, 0, 31, 32], [0, 0, 96, 96], [10, 0, 110, 20], [0, 0, 200, 100]], [0, 0, 0, 1, 1]),
        ([[100, 50, 140, 70]], [0]),
        ([], []),
    ]
    samples = []
    for number, (boxes_xyxy, labels) in enumerate(boxes, 1):
        path = tmp_path / f"{number}.png"
        write_image(path, np.full((100, 200, 3), 60 * number, np.uint8))
        crowd = np.arange(len(labels)) == 4
        columns = np.array(boxes_xyxy, np.float32).reshape(-1, 4), np.array(labels, np.int64)
        samples.append(Sample(path.name, path, Detections((100, 200), *columns, crowd=crowd), number))
    return Dataset("made", ("ant", "bee", "cow"), tuple(samples), tmp_path, "coco", "train", (1, 2, 3))


def test_hand_computed_figures(dataset: Dataset) -> None:
    found = describe(dataset)
    assert (found.split, found.images, found.empty_images, found.boxes, found.crowd_boxes) == ("train", 3, 1, 5, 1)
    assert found.boxes_per_image == {"mean": 1.667, "median": 1.0, "max": 4.0}
    # areas 1024, 992, 9216, 2000, 800: as in COCO, 32x32 is medium and 96x96 large
    assert (found.small, found.medium, found.large) == (2, 2, 1)
    ant, bee, cow = found.classes
    assert (ant.name, ant.images, ant.boxes, ant.median_wh_px) == ("ant", 2, 4, (36.0, 32.0))
    assert (ant.small, ant.medium, ant.large) == (2, 1, 1)
    assert (bee.images, bee.boxes, bee.median_wh_px, bee.medium) == (1, 1, (100.0, 20.0), 1)
    assert (cow.images, cow.boxes, cow.median_wh_px) == (0, 0, None)
    assert found.pairs == (("ant", "bee", 1),)
    assert found.image_wh_px["max"] == (200.0, 100.0)
    assert found.common_sizes == ((200, 100, 3),)
    assert list(found.aspect_ratios) == ["5%", "25%", "50%", "75%", "95%"]
    assert found.aspect_ratios["50%"] == 1.0  # of 1, 31/32, 1, 5, 2
    assert found.aspect_ratios["75%"] == 2.0
    assert json.loads(json.dumps(found.to_dict()))["classes"][1]["median_wh_px"] == [100.0, 20.0]


def test_no_boxes_and_no_photos_are_ordinary(dataset: Dataset) -> None:
    empty = describe(replace(dataset, samples=dataset.samples[2:]))
    assert (empty.images, empty.boxes, empty.aspect_ratios, empty.pairs) == (1, 0, {}, ())
    nothing = describe(replace(dataset, samples=()))
    assert (nothing.images, nothing.boxes_per_image["mean"], nothing.image_wh_px) == (0, 0.0, {})


def test_boxes_on_canvas(dataset: Dataset) -> None:
    first, second, third = boxes_on_canvas(dataset, 100)  # half as large, 25 px of border above and below
    assert len(first) == 4  # the crowd is left out
    np.testing.assert_allclose(first[0], [8, 33, 16, 16])
    np.testing.assert_allclose(second, [[60, 55, 20, 10]])
    assert (third.shape, third.dtype) == ((0, 4), np.float64)


def test_boxes_on_canvas_are_those_training_sees(dataset: Dataset) -> None:
    prepare = pytest.importorskip("detkit.train.prepare")
    for one, other in zip(boxes_on_canvas(dataset, 416), prepare.boxes_on_canvas(dataset, 416), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_sheet_shows_boxes_in_the_colours_of_the_legend(dataset: Dataset) -> None:
    sheet = contact_sheet(dataset)
    assert (sheet.dtype, sheet.shape[1:]) == (np.uint8, (WIDTH_PX, 3))
    for label in (0, 1):
        assert (sheet == class_color(label)).all(2).sum() > 500
    np.testing.assert_array_equal(sheet, contact_sheet(dataset))
    one_class = replace(dataset, class_names=("ant",), samples=dataset.samples[1:])
    assert (contact_sheet(one_class) == class_color(0)).all(2).any()


def test_a_sheet_of_empty_photos_and_of_extreme_shapes(dataset: Dataset, tmp_path: Path) -> None:
    assert contact_sheet(replace(dataset, samples=dataset.samples[2:])).shape[1] == WIDTH_PX
    samples = []
    for number, size_hw in enumerate([(4, 400), (400, 4), (1, 1)], 1):
        write_image(tmp_path / f"e{number}.png", np.full((*size_hw, 3), 200, np.uint8))
        truth = Detections(size_hw, np.array([[0, 0, 1, 1]]), np.array([2]))
        samples.append(Sample(f"e{number}.png", tmp_path / f"e{number}.png", truth, number))
    assert contact_sheet(replace(dataset, samples=tuple(samples))).shape[1] == WIDTH_PX


def test_the_choice_shows_the_rarest_class_and_depends_on_the_seed(dataset: Dataset) -> None:
    many = replace(dataset, samples=(dataset.samples[0], *(dataset.samples[1:2] * 99)))
    for seed in range(5):
        assert dataset.samples[0] in choose(many, 3, seed)
    assert len(choose(many, 200, 0)) == 100
    named = replace(many, samples=tuple(replace(s, name=str(k)) for k, s in enumerate(many.samples)))
    chosen = [[sample.name for sample in choose(named, 10, seed)] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
