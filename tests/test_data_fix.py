"""`detkit data fix`: the copy has no error left, every change is logged, and the original stays as it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from planted import BOXES_XYXY, SIZE_HW, Place, exif, plant, sound
from planted_faults import FAULTS, Fault

from detkit.data import formats
from detkit.data.check import check, judge, read_leniently
from detkit.data.check_photos import inspect_photos
from detkit.data.findings import CODES
from detkit.data.fix import LEFT_OUT, Mended, mend, upright, write
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import read_image, read_size_hw, write_image

BY_NAME = {(fault.name, fault.format): fault for fault in FAULTS}
HOPELESS = {"class-lists-differ"}  # nobody knows which list is right


def fixed(root: Path, target: Path) -> Mended:
    reading = read_leniently(root)
    facts = list(inspect_photos(reading.photos))
    return write(mend(judge(reading, facts), facts), target)


def bytes_below(root: Path) -> dict[Path, bytes]:
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in root.rglob("*") if path.is_file()}


MENDABLE = [fault for fault in FAULTS if not fault.expected & HOPELESS]
WITH_ERROR = [fault for fault in MENDABLE if any(CODES[code].severity == "error" for code in fault.expected)]


@pytest.mark.parametrize("fault", WITH_ERROR, ids=lambda fault: f"{fault.name}-{fault.format}")
def test_the_copy_has_no_error_and_the_original_is_untouched(tmp_path: Path, fault: Fault) -> None:
    root = plant(fault, tmp_path)
    before = bytes_below(root)
    mended = fixed(root, tmp_path / "mended")
    assert bytes_below(root) == before
    report = check(tmp_path / "mended")
    assert report.errors == ()
    assert (report.datasets[0].format, report.images_used) == (fault.format, sum(map(len, mended.datasets)))
    logged = [json.loads(line) for line in (tmp_path / "mended/fix.log").read_text().splitlines()]
    assert fault.expected <= {row["code"] for row in logged}
    assert all(row["done"] for row in logged)


FIRST = BOXES_XYXY[0]
EXPECTED = {  # the first photo's boxes after mending; None where the photo is left out
    "negative side": [[30, 30, 60, 50], *BOXES_XYXY[1:]],
    "no area": BOXES_XYXY[1:],
    "outside": BOXES_XYXY[1:],
    "in fractions": [[32, 36, 72, 72], *BOXES_XYXY[1:]],
    "in pixels": [[65, 50, 95, 70], *BOXES_XYXY[1:]],
    "NaN": None,
    "unknown class": None,
    "twice": BOXES_XYXY,
    "ids from 1": BOXES_XYXY,
    "corners for sides": BOXES_XYXY,
    "annotation ids twice": BOXES_XYXY,
    "annotation id 0": BOXES_XYXY,
    "area": BOXES_XYXY,
    "extension lies": BOXES_XYXY,
    "truncated": None,
    "labels-missing": None,
}


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.name in EXPECTED], ids=lambda f: f"{f.name}-{f.format}")
def test_boxes_are_mended_to_what_they_must_have_been(tmp_path: Path, fault: Fault) -> None:
    fixed(plant(fault, tmp_path), tmp_path / "mended")
    train = formats.read(tmp_path / "mended", "train")
    expected = EXPECTED[fault.name]
    if fault.name == "in fractions" and fault.format == "csv":
        expected = BOXES_XYXY  # there, all boxes are
    if fault.name == "in fractions" and fault.format == "voc":
        expected = [[32, 36, 72, 72], *BOXES_XYXY[1:]]
    if expected is None:
        assert [Path(sample.name).stem for sample in train] == ["1", "2", "3", "4", "5"]
        return
    first = next(sample for sample in train if Path(sample.name).stem == "0")
    np.testing.assert_allclose(sorted(first.truth.boxes_xyxy.tolist()), sorted(expected), atol=1e-3)
    assert set(first.truth.labels.tolist()) <= {0, 1}
    if fault.name in ("ids from 1", "corners for sides"):
        assert first.truth.labels.tolist() == [0, 1, 0, 1]


def test_a_renamed_photo_keeps_its_bytes(tmp_path: Path) -> None:
    root = plant(BY_NAME["extension lies", "coco"], tmp_path)
    mended = fixed(root, tmp_path / "mended")
    photo = tmp_path / "mended/images/train/0.png"
    assert photo.read_bytes() == (root / "images/train/0.jpg").read_bytes()
    assert [change.done for change in mended.changes] == ["the photo is called 0.png"]


def test_a_resized_photo_gets_resized_boxes_and_one_of_another_shape_is_left_out(tmp_path: Path) -> None:
    def resize(place: Place) -> None:
        write_image(place.photo, read_image(place.photo)[::2, ::2])
        other = place.photo.with_name("1.jpg")
        write_image(other, read_image(other)[:, ::2])

    mended = fixed(plant(Fault("resized", "coco", frozenset(), after=resize), tmp_path), tmp_path / "mended")
    train = formats.read(tmp_path / "mended", "train")
    assert [sample.name for sample in train] == ["0.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]
    assert train.samples[0].truth.size_hw == (60, 80)
    np.testing.assert_allclose(train.samples[0].truth.boxes_xyxy, np.array(BOXES_XYXY) / 2)
    assert [(c.finding.code, c.done == LEFT_OUT) for c in mended.changes] == [
        ("image-size-wrong", False),
        ("image-size-wrong", True),
    ]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_the_photo(tmp_path: Path, orientation: int) -> None:
    """A white box on black, its corners known on the stored pixels, found again on the upright image."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[8:24, 40:56] = 255
    write_image(tmp_path / "a.jpg", image)
    (tmp_path / "a.jpg").write_bytes(exif((tmp_path / "a.jpg").read_bytes(), orientation))
    points = np.float32([[[40, 8, 2], [0, 0, 0]]])
    turned = upright(Detections((48, 64), np.float32([[40, 8, 56, 24]]), np.array([0]), points_xyv=points), orientation)
    seen = read_image(tmp_path / "a.jpg")[:, :, 0] > 128
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert turned.size_hw == seen.shape == read_size_hw(tmp_path / "a.jpg")
    assert turned.boxes_xyxy.tolist() == [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]
    x, y, visible = turned.points_xyv[0, 0]
    assert x in turned.boxes_xyxy[0, ::2]
    assert y in turned.boxes_xyxy[0, 1::2]
    assert visible == 2
    assert turned.points_xyv[0, 1].tolist() == [0, 0, 0]


def test_points_of_unlabelled_joints_stay_zero_and_a_sound_set_is_copied_as_it_is(tmp_path: Path) -> None:
    formats.write(sound(tmp_path / "source"), tmp_path / "set", "coco")
    assert fixed(tmp_path / "set", tmp_path / "mended").changes == ()
    for split in ("train", "val"):
        same = [formats.read(tmp_path / name, split).content_hash() for name in ("set", "mended")]
        assert same[0] == same[1]
    assert (tmp_path / "mended/fix.log").read_text() == ""


def test_what_is_mended_on_a_photo_that_is_left_out_is_not_called_mended(tmp_path: Path) -> None:
    def two_faults(place: Place) -> None:
        place.set_box([0.5, 0.5, -0.2, 0.2])
        place.set_box(["nan", 0.5, 0.2, 0.2], add=True)

    mended = fixed(plant(Fault("two", "yolo", frozenset(), after=two_faults), tmp_path), tmp_path / "mended")
    assert [(c.finding.code, c.done) for c in mended.changes] == [
        ("box-not-finite", LEFT_OUT),
        ("box-inverted", LEFT_OUT),
    ]


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    def ruin(place: Place) -> None:
        for photo in place.root.rglob("*.jpg"):
            photo.write_bytes(b"")

    root = plant(Fault("ruined", "coco", frozenset(), after=ruin), tmp_path)
    with pytest.raises(DataError, match="no photo is left"):
        fixed(root, tmp_path / "mended")
    assert not (tmp_path / "mended").exists()
    assert SIZE_HW == (120, 160)
