"""Any format to any other: equal boxes, classes and flags, also to other libraries; what gets lost is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from detkit.cli import options
from detkit.data import formats
from detkit.data.convert import Written, convert
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.images import write_image

FORMATS: tuple[formats.Format, ...] = get_args(formats.Format)
SIZE_HW = (700, 9990)  # wide, for the digits a fraction needs


def converted(source: Path, target: Path, to: formats.Format, **settings: Any) -> Written:
    *_, last = convert(source, target, to, **settings)
    assert isinstance(last, Written)
    return last


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO set of two splits with a crowd box, a photo without boxes and coordinates of any digits."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("source")
    write_image(root / "one.png", np.zeros((*SIZE_HW, 3), np.uint8))
    made = []
    for split, counts in (("train", (12, 0, 3)), ("val", (5,))):
        samples = []
        for number, count in enumerate(counts, 1):
            corners = np.sort(rng.uniform(0, [[[SIZE_HW[1]]], [[SIZE_HW[0]]]], (2, count, 2)), axis=2)  # [xy, N, 2]
            boxes_xyxy = corners.transpose(1, 2, 0).reshape(count, 4).astype(np.float32)
            crowd = np.arange(count) == 1
            truth = Detections(SIZE_HW, boxes_xyxy, rng.integers(0, 3, count), crowd=crowd)
            samples.append(Sample(f"{split} {number}.png", root / "one.png", truth, number))
        made.append(Dataset("made", ("zebra", "ant", "größe & co"), tuple(samples), root, "coco", split, (7, 8, 11)))
    formats.write(made, root / "coco", "coco")
    return root / "coco"


def without_crowds(dataset: Dataset) -> Dataset:
    samples = (replace(s, truth=s.truth if s.truth.crowd is None else s.truth[~s.truth.crowd]) for s in dataset)
    return replace(dataset, samples=tuple(samples))


def assert_same(before: Sequence[Dataset], after: Sequence[Dataset]) -> None:
    """Boxes to a thousandth of a pixel, classes, crowd flags, names and splits."""
    assert [one.split for one in before] == [one.split for one in after]
    for one, other in zip(before, after, strict=True):
        assert one.class_names == other.class_names
        by_name = {sample.name: sample.truth for sample in other}
        assert sorted(by_name) == sorted(sample.name for sample in one)
        for sample in one:
            truth, found = sample.truth, by_name[sample.name]
            assert truth.size_hw == found.size_hw
            np.testing.assert_array_equal(truth.labels, found.labels)
            np.testing.assert_allclose(truth.boxes_xyxy, found.boxes_xyxy, rtol=0, atol=1e-3)
            flags = [np.zeros(len(t), bool) if t.crowd is None else t.crowd for t in (truth, found)]
            np.testing.assert_array_equal(*flags)


@pytest.mark.parametrize(("first", "second"), list(permutations(FORMATS, 2)))
def test_a_round_trip_through_every_pair_keeps_everything(
    source: Path, tmp_path: Path, first: formats.Format, second: formats.Format
) -> None:
    before = list(formats.read_all(source))
    if "yolo" in (first, second):
        before = [without_crowds(one) for one in before]
    converted(source, tmp_path / "first", first)
    converted(tmp_path / "first", tmp_path / "second", second)
    last = converted(tmp_path / "second", tmp_path / "third", first)
    assert_same(before, last.datasets)
    for photo in tmp_path.glob("third/**/*.png"):
        assert photo.samefile(source / "images/train/train 1.png")  # a hard link, so it takes no room


def test_what_gets_lost_is_said(source: Path, tmp_path: Path) -> None:
    ids = "the category ids are left out: only COCO has them; the order of the classes stays"
    assert converted(source, tmp_path / "coco", "coco").lost == ()
    assert converted(source, tmp_path / "voc", "voc").lost == (ids,)
    assert converted(source, tmp_path / "yolo", "yolo").lost == (
        "3 crowd boxes are left out: YOLO has no flag for them",
        ids,
    )
    assert converted(tmp_path / "voc", tmp_path / "csv", "csv").lost == ()
    file = tmp_path / "coco/annotations/instances_val.json"
    document = json.loads(file.read_text())
    document["annotations"][0] |= {"area": 12.5, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    file.write_text(json.dumps(document))
    assert converted(tmp_path / "coco", tmp_path / "outlines", "csv", split="val").lost == (
        "the outlines (segmentation) are left out: detkit keeps the boxes",
        ids,
        "the areas of 1 shapes are left out: only COCO has them; eval sorts by the boxes' areas instead",
    )


def test_one_split_and_a_format_that_is_given(source: Path, tmp_path: Path) -> None:
    done = converted(source, tmp_path / "val", "csv", split="val", format="coco")
    assert [dataset.split for dataset in done.datasets] == ["val"]
    assert sorted(path.name for path in (tmp_path / "val").iterdir()) == ["classes.txt", "images", "val.csv"]
    with pytest.raises(DataError, match="YOLO"):
        converted(source, tmp_path / "new", "csv", format="yolo")
    assert not (tmp_path / "new").exists()


def test_nothing_is_half_written(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "csv", "csv")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="not an empty folder"):
        converted(source, tmp_path / "csv", "voc")
    with pytest.raises(UsageError, match="lies inside the data set"):
        converted(tmp_path / "csv", tmp_path / "csv/new", "voc")
    (tmp_path / "csv/images/val/val 1.png").unlink()
    with pytest.raises(DataError, match="missing"):
        converted(tmp_path / "csv", tmp_path / "new", "voc")
    assert sorted(tmp_path.rglob("*")) == [path for path in before if path.name != "val 1.png"]


def test_splits_with_other_classes_are_refused_with_both_named(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "coco", "coco")
    file = tmp_path / "coco/annotations/instances_val.json"
    file.write_text(file.read_text().replace('"ant"', '"bee"'))
    with pytest.raises(DataError, match=r"train and val have different classes; found \['ant', 'bee'\]"):
        converted(tmp_path / "coco", tmp_path / "new", "yolo")


def test_trainval_is_left_out_where_its_parts_are_there(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "voc", "voc")
    lists = tmp_path / "voc/ImageSets/Main"
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    assert [dataset.split for dataset in formats.read_all(tmp_path / "voc")] == ["train", "val"]
    assert [len(dataset) for dataset in formats.read_all(tmp_path / "voc", "trainval")] == [4]


def test_the_command_line_knows_the_same_formats() -> None:
    assert get_args(options.Format) == FORMATS


def in_supervision(root: Path, to: str, split: str) -> Any:
    """The same files read by another library."""
    dataset = pytest.importorskip("supervision").DetectionDataset
    if to == "coco":
        return dataset.from_coco(str(root / "images" / split), str(root / f"annotations/instances_{split}.json"))
    if to == "yolo":
        folders = str(root / "images" / split), str(root / "labels" / split)
        return dataset.from_yolo(*folders, str(root / "data.yaml"))
    return dataset.from_pascal_voc(str(root / "JPEGImages"), str(root / "Annotations"))  # all splits: it has no lists


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
@pytest.mark.parametrize("name", ["street5", "bccd"])
def test_supervision_reads_equal_boxes(shared_data: Path, tmp_path: Path, name: str, to: formats.Format) -> None:
    done = converted(shared_data / name, tmp_path / "new", to, split="val")
    theirs = in_supervision(tmp_path / "new", to, "val")
    annotations = {Path(path).name: found for path, found in theirs.annotations.items()}
    assert sorted(annotations) == sorted(sample.name for sample in done.datasets[0])
    for sample in done.datasets[0]:
        found = annotations[sample.name]
        names = [done.datasets[0].class_names[label] for label in sample.truth.labels]
        assert [theirs.classes[label] for label in found.class_id] == names
        np.testing.assert_allclose(np.reshape(found.xyxy, (-1, 4)), sample.truth.boxes_xyxy, rtol=0, atol=1e-3)


def test_pycocotools_reads_equal_boxes(shared_data: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    converted(shared_data / "street5", tmp_path / "voc", "voc", split="val")
    converted(tmp_path / "voc", tmp_path / "coco", "coco")
    theirs = COCO(str(tmp_path / "coco/annotations/instances_val.json"))
    ours = formats.read(shared_data / "street5", "val")
    of_photo = {image["file_name"]: theirs.imgToAnns[image["id"]] for image in theirs.dataset["images"]}
    names = {category["id"]: category["name"] for category in theirs.dataset["categories"]}
    assert sum(map(len, of_photo.values())) == ours.box_count
    for sample in ours:
        found = of_photo[sample.name]
        boxes_xywh = np.array([annotation["bbox"] for annotation in found]).reshape(-1, 4)
        expected_xyxy = sample.truth.boxes_xyxy.astype(np.float64)
        np.testing.assert_allclose(boxes_xywh[:, :2], expected_xyxy[:, :2], rtol=0, atol=1e-3)
        np.testing.assert_allclose(boxes_xywh[:, 2:], expected_xyxy[:, 2:] - expected_xyxy[:, :2], rtol=0, atol=1e-3)
        assert [names[a["category_id"]] for a in found] == [ours.class_names[k] for k in sample.truth.labels]
        assert sample.truth.crowd is not None
        assert [a["iscrowd"] for a in found] == sample.truth.crowd.astype(int).tolist()
