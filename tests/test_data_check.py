"""`detkit data check`: every planted fault is found and nothing else is called an error; nor is any real clean set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import Fault, Place, plant, sound
from planted_faults import FAULTS

from detkit.data import formats
from detkit.data.check import check, check_for_training
from detkit.data.check_boxes import box_findings
from detkit.data.check_copies import copies
from detkit.data.check_photos import inspect_photos
from detkit.data.dataset import Dataset, Sample
from detkit.data.findings import CODES
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import write_image


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.name}-{fault.format}")
def test_a_planted_fault_is_found_and_no_other_error(tmp_path: Path, fault: Fault) -> None:
    report = check(plant(fault, tmp_path))
    codes = {finding.code for finding in report.findings}
    assert fault.expected <= codes, report.findings
    errors = {code for code in fault.expected if CODES[code].severity == "error"}
    assert {finding.code for finding in report.errors} == errors, report.errors


def test_the_corpus_has_at_least_25_kinds_in_every_format_that_can_have_them() -> None:
    assert len({fault.name for fault in FAULTS}) >= 40
    assert set().union(*(fault.expected for fault in FAULTS)) == set(CODES)


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "csv"])
def test_a_sound_set_has_no_finding(tmp_path: Path, kind: formats.Format) -> None:
    formats.write(sound(tmp_path / "source"), tmp_path / "set", kind)
    report = check(tmp_path / "set")
    assert report.findings == ()
    assert (report.images_used, report.boxes_used) == (9, 36)
    assert (report.images_left_out, report.boxes_left_out, report.blocking, report.top(3)) == (0, 0, (), ())


def planted(name: str, kind: str) -> Fault:
    return next(fault for fault in FAULTS if (fault.name, fault.format) == (name, kind))


@pytest.mark.parametrize(
    ("kind", "line", "item"), [("coco", None, 1), ("yolo", 1, None), ("voc", None, 1), ("csv", 2, None)]
)
@pytest.mark.parametrize("name", ["negative side", "over the edge"])  # said by the reader, and by the check
def test_a_finding_says_where_and_what(
    tmp_path: Path, name: str, kind: str, line: int | None, item: int | None
) -> None:
    root = plant(planted(name, kind), tmp_path)
    (finding,) = check(root).findings
    place = Place(root, kind)
    assert (finding.file, finding.photo, finding.line, finding.item) == (place.labels, place.photo, line, item)
    assert finding.found
    assert finding.advice == CODES[finding.code].advice
    row = finding.to_dict()
    assert json.loads(json.dumps(row)) == row
    assert set(row) == {
        "code", "severity", "message", "file", "line", "item", "photo", "found", "expected", "advice",
    }  # fmt: skip


def test_what_is_used_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    def three_faults(place: Place) -> None:
        place.set_box([0.5, 0.5, -0.2, 0.2])  # mended in reading, but not trusted: the photo is left out
        (place.photo.parent / "1.jpg").write_bytes(b"")
        (place.photo.parent / "2.jpg").unlink()

    root = plant(Fault("three", "yolo", frozenset(), after=three_faults), tmp_path)
    report = check(root)
    assert [finding.code for finding in report.errors] == ["labels-orphan", "image-empty", "box-inverted"]
    assert (report.images_used, report.boxes_used) == (6, 24)
    assert report.images_left_out == 3
    assert [len(dataset) for dataset in report.usable] == [3, 3]
    assert report.blocking == ()
    assert [finding.code for finding in report.top(2)] == ["labels-orphan", "image-empty"]


def test_faults_of_the_whole_set_block(tmp_path: Path) -> None:
    report = check(plant(planted("ids from 1", "yolo"), tmp_path))
    assert [finding.code for finding in report.blocking] == ["class-ids-from-one"]
    assert report.blocking[0].found == "1 to 2"


def test_a_broken_label_file_of_one_split_does_not_hide_the_other(tmp_path: Path) -> None:
    report = check(plant(planted("broken JSON", "coco"), tmp_path))
    assert [dataset.split for dataset in report.datasets] == ["val"]
    assert [finding.code for finding in report.blocking] == ["labels-unreadable"]


def test_training_needs_its_splits(tmp_path: Path) -> None:
    root = plant(planted("tiny", "coco"), tmp_path)
    assert [dataset.split for dataset in check_for_training(root, 320).datasets] == ["train", "val"]
    assert check_for_training(root, 1280).findings == ()  # there, the box is large enough
    (root / "annotations/instances_val.json").unlink()
    with pytest.raises(DataError, match="no split 'val'"):
        check_for_training(root, 320)


def test_training_is_refused_unless_so_many_bad_photos_are_allowed(tmp_path: Path) -> None:
    root = plant(planted("NaN", "yolo"), tmp_path)
    report = check_for_training(root, 320)
    with pytest.raises(DataError) as caught:
        report.for_training()
    message = str(caught.value)
    for part in (
        "1 error on 1 image: box-not-finite (1)",
        "labels/train/0.txt:1: 0.jpg: not finite",
        "--allow-bad 1",
    ):
        assert part in message
    assert f"`detkit data check {root}`" in message
    assert [len(dataset) for dataset in report.for_training(1)] == [5, 3]
    blocked = check_for_training(plant(planted("ids from 1", "yolo"), tmp_path / "ids"), 320)
    with pytest.raises(DataError, match="class-ids-from-one") as caught:
        blocked.for_training(1000)
    assert "--allow-bad" not in str(caught.value)
    for photo in (root / "images/val").iterdir():
        photo.write_bytes(b"")
    with pytest.raises(DataError, match="image-empty"):
        check_for_training(root, 320).for_training(1000)


def test_fast_looks_at_headers_only(tmp_path: Path) -> None:
    cut = check(plant(planted("truncated", "coco"), tmp_path / "cut"), fast=True)
    assert cut.findings == ()
    for name, code in (("zero bytes", "image-empty"), ("not an image", "image-unreadable"), ("leak", "leak")):
        report = check(plant(planted(name, "coco"), tmp_path / name), fast=True)
        assert [finding.code for finding in report.findings] == [code]


def test_hostile_links_end(tmp_path: Path) -> None:
    for kind in ("coco", "yolo", "voc", "csv"):
        root = tmp_path / kind
        formats.write(sound(tmp_path / "source"), root, kind)
        place = Place(root, kind)
        place.photo.unlink()
        place.photo.symlink_to(place.photo)
        (root / "again").symlink_to(root)
        codes = {finding.code for finding in check(root).errors}
        assert codes <= {"image-missing", "labels-orphan", "image-unreadable"}
        assert codes


def test_dark_photos_are_not_taken_for_copies(tmp_path: Path) -> None:
    """Photos of one colour have one hash; their brightness tells them apart."""
    samples = []
    for number, level in enumerate((0, 40, 80, 81)):
        path = tmp_path / f"{number}.png"
        write_image(path, np.full((60, 80, 3), level, np.uint8))
        samples.append(Sample(path.name, path, Detections.empty((60, 80), scored=False), number))
    dataset = Dataset("dark", ("a",), tuple(samples), tmp_path, "coco", "train", (1,))
    facts = inspect_photos([sample.image_path for sample in samples])
    assert [(f.code, f.photo.name, f.found) for f in copies([dataset], facts)] == [
        ("image-near-copy", "3.png", str(tmp_path / "2.png"))
    ]
    assert list(copies([], [])) == []


def test_small_objects_in_one_cell_are_counted_by_hand() -> None:
    """Canvas = photo (320 px): five 8x8 objects in the cell [64, 72) of stride 8, three anchors: two are lost."""
    middles = np.array([[65, 65], [66, 66], [67, 67], [70, 70], [71.9, 64], [72, 64]])
    boxes_xyxy = np.hstack([middles - 4, middles + 4]).astype(np.float32)
    truth = Detections((320, 320), boxes_xyxy, np.zeros(6, int))
    (finding,) = [
        f for f in box_findings(Sample("a", Path("a.jpg"), truth, 1), ("x",), 320) if f.code == "cell-crowded"
    ]
    assert finding.message.startswith("2 of 6 boxes")
    crowd = replace(truth, crowd=np.ones(6, bool))
    assert list(box_findings(Sample("a", Path("a.jpg"), crowd, 1), ("x",), 320)) == []


@pytest.mark.parametrize("name", ["street5", "bccd", "fddb", "faces5", "nuclei", "openimages"])
def test_no_error_on_real_clean_sets(shared_data: Path, name: str) -> None:
    report = check(shared_data / name, fast=True)
    assert report.errors == ()
    assert report.images_used == sum(map(len, report.datasets)) > 0


def test_what_is_flagged_on_real_sets_is_true(shared_data: Path) -> None:
    """Pairs in FDDB and BCCD that were looked at: the same news photo twice, the same smear focused anew."""
    codes = {"leak", "near-leak", "image-copy", "image-near-copy"}
    for name, expected in (
        ("fddb", {("001983", "001513"), ("002009", "000485"), ("002073", "001449"), ("001475", "000323"),
                  ("001462", "001176")}),
        ("bccd", {("BloodImage_00037", "BloodImage_00038")}),
    ):  # fmt: skip
        found = [f for f in check(shared_data / name).findings if f.code in codes]
        assert {(f.photo.stem, Path(f.found).stem) for f in found} == expected
