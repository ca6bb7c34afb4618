"""Recognising a data set, reading it whatever its format, its content hash, and class names that must fit a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from detkit.data import coco, formats, voc, yolo
from detkit.data.dataset import Dataset, Sample, check_class_names
from detkit.detections import Detections
from detkit.errors import DataError, WeightsError
from detkit.images import write_image

WRITERS = {"coco": coco, "yolo": yolo, "voc": voc}


@pytest.fixture
def datasets(tmp_path: Path) -> list[Dataset]:
    """Two splits, with a photo without objects and boxes of two decimals, none of them crowd."""
    rng = np.random.default_rng(0)
    made = []
    for split, count in (("train", 3), ("val", 2)):
        samples = []
        for number in range(count):
            path = tmp_path / "source" / f"{split}{number}.png"
            path.parent.mkdir(exist_ok=True)
            write_image(path, np.zeros((120, 160, 3), np.uint8))
            corners_xy = rng.uniform(0, 80, (number, 2)).round(2)
            boxes_xyxy = np.hstack([corners_xy, corners_xy + rng.uniform(1, 40, (number, 2)).round(2)])
            truth = Detections((120, 160), boxes_xyxy.astype(np.float32), rng.integers(0, 2, number))
            samples.append(Sample(path.name, path, truth, number + 1))
        made.append(Dataset("made", ("dog", "cat"), tuple(samples), tmp_path, "coco", split, (1, 2)))
    return made


def assert_close(a: Dataset, b: Dataset) -> None:
    assert (a.class_names, a.split) == (b.class_names, b.split)
    for one, other in zip(a, b, strict=True):
        assert (one.name, one.truth.size_hw) == (other.name, other.truth.size_hw)
        np.testing.assert_array_equal(one.truth.labels, other.truth.labels)
        np.testing.assert_allclose(one.truth.boxes_xyxy, other.truth.boxes_xyxy, atol=1e-3)


@pytest.mark.parametrize("first", WRITERS)
@pytest.mark.parametrize("second", WRITERS)
def test_every_pair_of_formats_keeps_boxes_and_hash(
    datasets: list[Dataset], tmp_path: Path, first: str, second: str
) -> None:
    WRITERS[first].write(datasets, tmp_path / "first")
    middle = [formats.read(tmp_path / "first", split) for split in ("train", "val")]
    WRITERS[second].write(middle, tmp_path / "second")
    assert formats.splits(tmp_path / "second") == ["train", "val"]
    for before in datasets:
        after = formats.read(tmp_path / "second", before.split)
        assert after.format == second
        assert_close(before, after)
        assert after.content_hash() == before.content_hash()


REASONS = {
    "coco": "COCO JSON: annotations/instances_train.json, annotations/instances_val.json",
    "yolo": "YOLO txt: data.yaml",
    "voc": "Pascal VOC XML: ImageSets/Main/train.txt, ImageSets/Main/val.txt",
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_is_recognised_and_says_why(datasets: list[Dataset], tmp_path: Path, name: str) -> None:
    WRITERS[name].write(datasets, tmp_path / "new")
    recognition = formats.recognise(tmp_path / "new")
    assert (recognition.format, recognition.reason) == (name, REASONS[name])
    assert list(recognition.splits) == ["train", "val"]


@pytest.mark.parametrize(
    ("writer", "file", "reason"),
    [
        (coco, "annotations/instances_val.json", "COCO JSON: instances_val.json"),
        (yolo, "data.yaml", "YOLO txt: data.yaml"),
    ],
)
def test_a_file_is_recognised(
    datasets: list[Dataset], tmp_path: Path, writer: ModuleType, file: str, reason: str
) -> None:
    writer.write(datasets, tmp_path / "new")
    assert formats.recognise(tmp_path / "new" / file).reason == reason
    assert_close(formats.read(tmp_path / "new" / file, "val"), datasets[1])


def test_paths_may_be_relative(datasets: list[Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, writer in WRITERS.items():
        writer.write(datasets, tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        dataset = formats.read(".", "train")
        assert (dataset.name, len(dataset)) == (name, 3)
        monkeypatch.chdir(tmp_path)
        assert_close(formats.read(name, "val"), datasets[1])


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data set"):
        formats.recognise(tmp_path / "nowhere")
    with pytest.raises(DataError, match="empty"):
        formats.recognise(tmp_path)
    (tmp_path / "notes.md").touch()
    for path in (tmp_path, tmp_path / "notes.md"):
        with pytest.raises(DataError) as caught:
            formats.read(path, "train")
        for looked_for in ("COCO JSON", "annotations/*.json", "YOLO txt", "data.yaml", "VOC", "Annotations/*.xml"):
            assert looked_for in str(caught.value)
    with pytest.raises(DataError):
        formats.recognise(tmp_path / ("x" * 300))
    with pytest.raises(DataError):
        formats.recognise("\0")


def test_two_formats_in_one_folder_are_ambiguous(datasets: list[Dataset], tmp_path: Path) -> None:
    coco.write(datasets, tmp_path / "both")
    (tmp_path / "both/data.yaml").write_text("train: images/train\nnames: [dog, cat]\n")
    with pytest.raises(DataError, match=r"COCO JSON: annotations.* and YOLO txt: data\.yaml"):
        formats.recognise(tmp_path / "both")
    assert formats.read(tmp_path / "both/annotations/instances_train.json").format == "coco"


def test_an_absent_split_lists_those_found(datasets: list[Dataset], tmp_path: Path) -> None:
    for name, writer in WRITERS.items():
        writer.write(datasets, tmp_path / name)
        with pytest.raises(DataError, match=r"no split 'test'.*found train, val"):
            formats.read(tmp_path / name, "test")
        with pytest.raises(DataError, match=r"none was asked for.*found train, val"):
            formats.read(tmp_path / name)


def test_the_hash_ignores_order_and_notices_every_change(datasets: list[Dataset], tmp_path: Path) -> None:
    dataset = datasets[0]
    last = dataset.samples[2]

    def changed(**columns: object) -> str:
        other = replace(last, truth=replace(last.truth, **columns))
        return replace(dataset, samples=(*dataset.samples[:2], other)).content_hash()

    same = replace(dataset, samples=dataset.samples[::-1], name="other", source=tmp_path / "x", category_ids=(5, 9))
    assert same.content_hash() == dataset.content_hash()
    turned = last.truth[[1, 0]]
    assert changed(boxes_xyxy=turned.boxes_xyxy, labels=turned.labels) == dataset.content_hash()
    assert changed(crowd=np.zeros(2, bool), boxes_xyxy=last.truth.boxes_xyxy + 1e-4) == dataset.content_hash()
    hashes = {
        dataset.content_hash(),
        changed(boxes_xyxy=last.truth.boxes_xyxy + np.float32([0.1, 0, 0, 0])),
        changed(labels=1 - last.truth.labels),
        changed(crowd=np.array([True, False])),
        changed(points_xyv=np.zeros((2, 5, 3))),
        replace(dataset, class_names=("cat", "dog")).content_hash(),
        replace(dataset, samples=dataset.samples[:2]).content_hash(),
        replace(dataset, samples=(replace(dataset.samples[0], name="z.png"), *dataset.samples[1:])).content_hash(),
    }
    assert len(hashes) == 8


def test_the_hash_is_the_same_on_every_machine() -> None:
    truth = Detections((10, 20), np.float32([[1, 2.5, 3, 4]]), np.array([1]), crowd=np.array([True]))
    samples = Sample("a/b.png", Path("b.png"), truth, 1), Sample("c.png", Path("c.png"), Detections.empty((5, 5)), 2)
    dataset = Dataset("x", ("cat", "größe"), samples, Path("x"), "coco", "train", (1, 2))
    assert dataset.content_hash() == "ad313512983b3a82e7eac9a0592960a6efc4ac5d9e4273d474f7e9df25c48370"


def named(*names: str, kind: str = "yolo") -> Dataset:
    return Dataset("x", names, (), Path("data.yaml"), kind, "", tuple(range(len(names))))


@pytest.mark.parametrize(
    ("model", "data", "parts"),
    [
        (
            ("a", "b", "c"),
            ("a", "c", "b"),
            ["order differs", "label 1 is 'b' for the model, 'c' in the data", "a, b, c"],
        ),
        (("a", "b"), ("background", "a", "b"), ["shifted by one", "the data begins with 'background'"]),
        (("background", "a"), ("a",), ["shifted by one", "the model begins with 'background'"]),
        (("a", "b", "c"), ("a", "c"), ["missing from the data: b", "unknown to the model: none"]),
        (("a",), ("a", "d"), ["missing from the data: none", "unknown to the model: d"]),
        (("a", "Cat"), ("a", "cat"), ["upper and lower case", "Cat for the model, cat in the data"]),
        ((), ("a",), ["data"]),
        (tuple(map(str, range(80))), ("a",), ["0, 1, 2", "and 70 more"]),
    ],
)
def test_class_names_that_do_not_fit_name_the_difference(
    model: tuple[str, ...], data: tuple[str, ...], parts: list[str]
) -> None:
    with pytest.raises(WeightsError) as caught:
        check_class_names(model, named(*data))
    message = str(caught.value)
    assert message.startswith("data.yaml: the class names do not fit: ")
    assert "to mend it, " in message
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_class_names_that_fit_pass_and_the_fix_depends_on_the_format() -> None:
    check_class_names(["a", "b"], named("a", "b"))
    for kind, fix in (("coco", "categories"), ("yolo", "data.yaml"), ("voc", "classes.txt")):
        with pytest.raises(WeightsError, match=fix):
            check_class_names(["b", "a"], named("a", "b", kind=kind))


def test_every_real_set_is_recognised(shared_data: Path) -> None:
    for folder in sorted(path.parent for path in shared_data.glob("*/annotations")):
        recognition = formats.recognise(folder)
        assert recognition.format == "coco"
        counts = {split: json.loads(file.read_bytes()) for split, file in recognition.splits.items()}
        for split, document in counts.items():
            dataset = formats.read(folder, split)
            assert (len(dataset), dataset.box_count) == (len(document["images"]), len(document["annotations"]))
