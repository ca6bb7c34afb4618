"""YOLO txt: values, layouts, every refusal, and no input that ends in anything but a Dataset or a DataError."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkit.data import coco, yolo
from detkit.data.dataset import Dataset, Sample
from detkit.data.keypoints import mirrored_pairs
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.images import write_image

SQUEEZED = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DATA_YAML = "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n"


def photo(path: Path, width: int = 40, height: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((height, width, 3), np.uint8))
    return path


def text(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for name in ("train/a", "train/b", "val/c"):
        photo(root / "images" / f"{name}.png")
    text(root / "labels/train/a.txt", "1 0.5 0.5 0.25 0.5\n\n0 0.25 0.25 0.5 0.5\r\n")
    text(root / "labels/val/c.txt", "")
    text(root / "data.yaml", DATA_YAML)
    return root


def boxes(dataset: Dataset) -> list[list[float]]:
    return [box for sample in dataset for box in sample.truth.boxes_xyxy.tolist()]


def test_hand_made_values(root: Path) -> None:
    dataset = yolo.read(root, "train")
    assert (dataset.name, dataset.format, dataset.split) == ("set", "yolo", "train")
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (1, 2))
    full, empty = dataset
    assert (full.name, full.image_id, full.truth.size_hw) == ("a.png", 1, (20, 40))
    assert full.truth.boxes_xyxy.tolist() == [[15, 5, 25, 15], [0, 0, 20, 10]]
    assert full.truth.labels.tolist() == [1, 0]
    assert full.truth.crowd is None
    assert full.truth.scores is None
    assert full.truth.points_xyv is None
    assert (empty.name, len(empty.truth)) == ("b.png", 0)
    assert [len(sample.truth) for sample in yolo.read(root, "val")] == [0]


def test_a_polygon_is_never_read_as_a_box(root: Path) -> None:
    text(root / "labels/train/a.txt", "0 0.1 0.2 0.5 0.3 0.25 0.9\n1 0.5 0.5 0.25 0.5\n0 .1 .1 .9 .1 .9 .6 .1 .5\n")
    np.testing.assert_allclose(boxes(yolo.read(root, "train")), [[4, 4, 20, 18], [15, 5, 25, 15], [4, 2, 36, 12]])


def test_points_need_a_kpt_shape(root: Path) -> None:
    line = "1 0.5 0.5 0.25 0.5 0.1 0.2 2 0 0 0\n"
    text(root / "labels/train/a.txt", line)
    with pytest.raises(DataError, match="not fractions"):  # six more numbers look like a polygon; 2 is beyond 1
        yolo.read(root, "train")
    text(root / "data.yaml", DATA_YAML + "kpt_shape: [2, 3]\n")
    full, empty = yolo.read(root, "train")
    np.testing.assert_allclose(full.truth.points_xyv, [[[4, 4, 2], [0, 0, 0]]])
    assert empty.truth.points_xyv.shape == (0, 2, 3)
    assert yolo.read(root, "train").point_names == ("point_1", "point_2")
    text(root / "data.yaml", DATA_YAML + "kpt_shape: [2, 3]\nkpt_names: {0: [nose, tail], 1: [nose, tail]}\n")
    assert yolo.read(root, "train").point_names == ("nose", "tail")
    text(root / "data.yaml", DATA_YAML + "kpt_shape: [2, 3]\nkpt_names: [nose]\n")
    with pytest.raises(DataError, match="kpt_names"):
        yolo.read(root, "train")
    text(root / "data.yaml", DATA_YAML + "kpt_shape: [2, 2]\n")
    text(root / "labels/train/a.txt", "1 0.5 0.5 0.25 0.5 0.1 0.2 0 0\n")
    np.testing.assert_allclose(yolo.read(root, "train").samples[0].truth.points_xyv, [[[4, 4, 2], [0, 0, 0]]])


def test_points_that_change_places_in_a_mirror(root: Path, tmp_path: Path) -> None:
    text(root / "labels/train/a.txt", "1 0.5 0.5 0.25 0.5 0.1 0.2 2 0 0 0 0.3 0.3 1\n")
    text(root / "data.yaml", DATA_YAML + "kpt_shape: [3, 3]\n")
    assert yolo.read(root, "train").point_pairs is None
    text(root / "data.yaml", DATA_YAML + "kpt_shape: [3, 3]\nflip_idx: [2, 1, 0]\n")
    dataset = yolo.read(root, "train")
    assert dataset.point_pairs == mirrored_pairs(dataset) == ((0, 2),)
    yolo.write(dataset, tmp_path / "again")
    assert yolo.read(tmp_path / "again", "train").point_pairs == ((0, 2),)
    (note,) = coco.write(dataset, tmp_path / "coco")
    assert "which points change places in a mirror is left out" in note
    named = replace(dataset, point_names=("left_eye", "nose", "right_eye"))
    assert coco.write(named, tmp_path / "named") == []
    yolo.write(replace(named, point_pairs=None), tmp_path / "by_name")  # from a format that has names alone
    assert yaml.safe_load((tmp_path / "by_name/data.yaml").read_text())["flip_idx"] == [2, 1, 0]
    for wrong in ("[1, 2, 0]", "[0, 1]", "[0, 1, 3]", "[0, 1, x]", "7", "[0, 1, -1]", "[[0], 1, 2]"):
        text(root / "data.yaml", DATA_YAML + f"kpt_shape: [3, 3]\nflip_idx: {wrong}\n")
        with pytest.raises(DataError, match=r"data\.yaml: flip_idx is wrong; .* expected for each of the 3 points"):
            yolo.read(root, "train")


LABEL_FAULTS = {
    "0 0.5 0.5 0.2": ["4 columns", "class cx cy w h"],
    "0 0.5 0.5 0.2 0.2 0.9": ["6 columns", "confidence"],
    "0 0.5 0.5 0.2 0.2 0.9 0.1 0.3": ["8 columns", "polygon"],
    "0 0.5 x 0.2 0.2": ["not finite numbers", "x"],
    "0 0.5 nan 0.2 0.2": ["not finite numbers", "nan"],
    "0 0.5 0.5 inf 0.2": ["not finite numbers"],
    "0 0.5 0.5 0.2 1e999": ["not finite numbers"],
    "0 0.5 0.5 0.2 1_0": ["not finite numbers", "1_0"],
    "cat 0.5 0.5 0.2 0.2": ["not finite numbers", "cat"],
    "2 0.5 0.5 0.2 0.2": ["class id out of range", "names has 2", "0 to 1", "ids begin at 0"],
    "7 0.5 0.5 0.2 0.2": ["class id out of range", "0 to 1"],
    "-1 0.5 0.5 0.2 0.2": ["class id out of range"],
    "0.5 0.5 0.5 0.2 0.2": ["class id out of range"],
    "0 0.5 0.5 0 0.2": ["without area", "above 0"],
    "0 0.5 0.5 0.2 -0.2": ["not fractions"],
    "0 0.5 0.5 1e-9 0.2": ["without area"],
    "0 1.1 0.5 0.2 0.2": ["not fractions", "0 to 1"],
    "0 20 10 5 5": ["not fractions", "pixels"],
    "0 0.1 0.1 0.2 0.1 0.2 1.5": ["not fractions"],
    "0 0.1 0.1 0.1 0.2 0.1 0.3": ["without area"],
    "\ufeff\ufeff0 0.5 0.5 0.2 0.2": ["not finite numbers"],
    "\x000": ["not finite numbers"],
}


@pytest.mark.parametrize("line", LABEL_FAULTS)
def test_each_label_fault_names_file_and_line(root: Path, line: str) -> None:
    file = text(root / "labels/train/a.txt", f"0 0.5 0.5 0.2 0.2\n\n{line}\n")
    with pytest.raises(DataError) as caught:
        yolo.read(root, "train")
    assert (caught.value.file, caught.value.line) == (file, 3)
    for part in LABEL_FAULTS[line]:
        assert part in str(caught.value)


def test_rounding_above_one_and_a_byte_order_mark_are_fine(root: Path) -> None:
    text(root / "labels/train/a.txt", "\ufeff0.0 0.5 0.5 1.0004 1")
    np.testing.assert_allclose(boxes(yolo.read(root, "train")), [[-0.008, 0, 40.008, 20]], atol=1e-5)


def test_labels_without_a_photo_are_refused(root: Path) -> None:
    orphan = text(root / "labels/train/z.txt", "")
    with pytest.raises(DataError, match="without a photo") as caught:
        yolo.read(root, "train")
    assert caught.value.file == orphan
    orphan.unlink()
    text(root / "labels/train/more/a.txt", "")
    with pytest.raises(DataError, match="without a photo"):
        yolo.read(root, "train")
    assert len(yolo.read(root, "val")) == 1


def test_two_photos_may_not_share_one_label_file(root: Path) -> None:
    photo(root / "images/train/a.bmp")
    with pytest.raises(DataError, match="share one label file"):
        yolo.read(root, "train")


def test_misplaced_labels_are_not_taken_for_empty_photos(root: Path) -> None:
    (root / "labels").rename(root / "lables")
    with pytest.raises(DataError, match="no label file for any photo"):
        yolo.read(root, "train")


YAML_FAULTS = {
    "": "empty",
    "[1, 2]": "not a YOLO data file",
    "train: images/train\nnames: [a": "not valid YAML",
    "train: images/train\n\tnames: [a]": "not valid YAML",
    "train: images/train": "names is wrong",
    "train: images/train\nnames: 5": "names is wrong",
    "train: images/train\nnames: []": "no classes",
    "train: images/train\nnames: [cat, cat]": "same name",
    "train: images/train\nnames: [cat, [dog]]": "no usable name",
    "train: images/train\nnames: {1: cat, 2: dog}": "numbered from 0",
    "train: images/train\nnames: {zero: cat}": "numbered from 0",
    "train: images/train\nnames: [cat, dog]\nnc: 3": "nc does not fit",
    "train: {a: b}\nnames: [cat]": "train is wrong",
    "train: [[x]]\nnames: [cat]": "train is wrong",
    "train: images/train\npath: [x]\nnames: [cat, dog]": "path is wrong",
    "train: images/train\nnames: [cat, dog]\nkpt_shape: [5]": "kpt_shape",
    "train: images/train\nnames: [cat, dog]\nkpt_shape: 17": "kpt_shape",
    "train: &a images/train\nval: *a\nnames: [cat]": "aliases",
    "train: " + "[" * 5000: "deep nesting",
    "train: \x01": "not valid YAML",
    "val: images/val\nnames: [cat]": "no split 'train'; found val",
    "names: [cat]\ntrain: images/none": "images/none",
    "names: [cat]\ntrain: data.yaml": "no folder and no .txt list",
    "names: [cat]\ntrain: " + "x" * 2000: "tried",
    "names: [cat]\ntrain: " + "x" * 900: "tried",
    "#" * 2_000_000: "too large",
}


@pytest.mark.parametrize("content", YAML_FAULTS, ids=range(len(YAML_FAULTS)))
def test_each_yaml_fault_is_named(root: Path, content: str) -> None:
    file = text(root / "data.yaml", content)
    with pytest.raises(DataError, match=YAML_FAULTS[content].replace("[", r"\[")) as caught:
        yolo.read(file, "train")
    assert caught.value.file == file


def test_a_missing_folder_lists_the_paths_tried(root: Path) -> None:
    text(root / "data.yaml", "path: ../other\ntrain: ../pictures\nnames: [cat]\n")
    with pytest.raises(DataError) as caught:
        yolo.read(root, "train")
    for tried in (root / "../other/../pictures", root / "../pictures", root / "pictures"):
        assert str(tried) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "train: images/train\nnames:\n  1: no\n  0: 2014\n",
        "path: /nowhere/at/all\ntrain: images/train\nnames: ['2014', no]\ntest: ~\nval:\n",
        "train: [images/train]\nvalid: images/val\nnames: [2014, no]\nroboflow: {version: 1}\n",
        "train: ../images/train\nnames: [2014, 'no']\n",
    ],
)
def test_yaml_variants(root: Path, content: str) -> None:
    dataset = yolo.read(text(root / "data.yaml", content), "train")
    assert dataset.class_names == ("2014", "no")  # as written, not 2014 and False
    assert dataset.box_count == 2


def test_list_files(root: Path) -> None:
    text(root / "lists/train.txt", f"../images/train/b.png\n./images/train/a.png\n{root}/images/val/c.png\n\n")
    text(root / "data.yaml", "train: lists/train.txt\nnames: [cat, dog]\n")
    assert [sample.name for sample in yolo.read(root, "train")] == ["train/b.png", "train/a.png", "val/c.png"]
    file = text(root / "lists/train.txt", "images/train/a.png\nimages/train/z.png\n")
    with pytest.raises(DataError, match=r"z\.png") as caught:
        yolo.read(root, "train")
    assert (caught.value.file, caught.value.line) == (file, 2)
    text(file, "images/train/a.png\nimages/train/a.png\n")
    with pytest.raises(DataError, match="listed twice"):
        yolo.read(root, "train")
    text(file, b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        yolo.read(root, "train")


def test_layouts_without_a_yaml(root: Path, tmp_path: Path) -> None:
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"no class names.*classes.txt"):
        yolo.read(root, "train")
    text(root / "classes.txt", "cat\ndog\n\n")
    assert set(yolo.splits(root)) == {"train", "val"}
    assert yolo.read(root, "train").class_names == ("cat", "dog")
    text(root / "train.txt", "images/train/a.png\n")
    assert yolo.splits(root) == {"train": root / "train.txt"}
    assert len(yolo.read(root)) == 1
    flat = tmp_path / "flat"
    photo(flat / "a.JPG")
    text(flat / "a.txt", "1 0.5 0.5 0.25 0.5")
    text(flat / "classes.txt", "cat\ndog")
    assert [sample.name for sample in yolo.read(flat)] == ["a.JPG"]
    text(flat / "classes.txt", "cat\n\ndog")
    with pytest.raises(DataError, match="no usable name"):
        yolo.read(flat)
    other = tmp_path / "other"
    photo(other / "valid/images/a.png")
    text(other / "valid/labels/a.txt", "0 0.5 0.5 0.25 0.5")
    text(other / "obj.names", "cat")
    assert set(yolo.splits(other)) == {"val"}
    assert yolo.read(other, "val").box_count == 1


def test_nested_folders_and_links(root: Path) -> None:
    photo(root / "images/train/more/a.png")
    text(root / "labels/train/more/a.txt", "0 0.5 0.5 0.5 0.5")
    dataset = yolo.read(root, "train")
    assert [sample.name for sample in dataset] == ["a.png", "b.png", "more/a.png"]
    assert dataset.box_count == 3
    (root / "images/train/more/loop").symlink_to(root / "images/train")
    with pytest.raises(DataError, match="link"):
        yolo.read(root, "train")


def sample(root: Path, truth: Detections, name: str = "a.png") -> Sample:
    height, width = truth.size_hw
    return Sample(name, photo(root / "source" / name, width, height), truth, 1)


def test_written_data_reads_back_equal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, [[[333]], [[257]]], (2, 50, 2)), axis=2)  # [xy, N, 2]
    boxes_xyxy = corners.transpose(1, 2, 0).reshape(50, 4).astype(np.float32)
    points = rng.uniform(0, 200, (50, 4, 3)).astype(np.float32)
    truth = Detections((257, 333), boxes_xyxy, rng.integers(0, 3, 50), points_xyv=points)
    names = ("no", "a: b", "größe")
    dataset = Dataset("x", names, (sample(tmp_path, truth, "in/a.png"),), tmp_path, "coco", "val", (1, 2, 3))
    dataset = replace(dataset, point_names=("point_1", "point_2", "point_3", "point_4"))
    assert yolo.write(dataset, tmp_path / "new") == []
    back = yolo.read(tmp_path / "new", "val")
    assert back.class_names == names
    np.testing.assert_array_equal(back.samples[0].truth.labels, truth.labels)
    np.testing.assert_allclose(back.samples[0].truth.boxes_xyxy, boxes_xyxy, atol=1e-4)
    np.testing.assert_allclose(back.samples[0].truth.points_xyv, points, atol=1e-4)
    assert back.content_hash() == dataset.content_hash()
    config = yaml.safe_load((tmp_path / "new/data.yaml").read_text(encoding="utf-8"))
    assert config == {"val": "images/val", "kpt_shape": [4, 3], "names": dict(enumerate(names))}


def test_what_yolo_cannot_carry_is_said(tmp_path: Path) -> None:
    boxes_xyxy = np.float32([[1, 1, 5, 5], [0, 0, 8, 8], [-4, 2, 30, 9], [-9, 2, 3, 9]])
    truth = Detections((20, 40), boxes_xyxy, np.zeros(4, int), crowd=np.array([False, True, False, False]))
    dataset = Dataset("x", ("cat",), (sample(tmp_path, truth),), tmp_path, "coco", "", (1,))
    notes = yolo.write([dataset], tmp_path / "new")
    assert [note.split(":")[0] for note in notes] == ["1 crowd boxes are left out", "1 boxes are clipped"]
    kept = yolo.read(tmp_path / "new", "train").samples[0].truth.boxes_xyxy
    np.testing.assert_allclose(kept, [[1, 1, 5, 5], [-4, 2, 30, 9], [0, 2, 3, 9]], atol=1e-5)


def test_writing_refuses_what_does_not_fit_together(root: Path, tmp_path: Path) -> None:
    train, val = yolo.read(root, "train"), yolo.read(root, "val")
    for wrong in ([], [train, train]):
        with pytest.raises(UsageError):
            yolo.write(wrong, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    yolo.write([train, val], tmp_path / "new")
    assert [yolo.read(tmp_path / "new", split).box_count for split in ("train", "val")] == [2, 0]
    with pytest.raises(UsageError, match="empty folder"):
        yolo.write(train, tmp_path / "new")


@pytest.mark.parametrize("name", ["bccd", "nuclei", "faces5"])
def test_real_sets_survive_the_way_through_yolo(shared_data: Path, tmp_path: Path, name: str) -> None:
    dataset = coco.read(shared_data / name, "val")
    yolo.write(dataset, tmp_path / "yolo")
    coco.write(yolo.read(tmp_path / "yolo", "val"), tmp_path / "coco")
    back = coco.read(tmp_path / "coco", "val")
    assert back.content_hash() == dataset.content_hash()
    assert back.box_count == dataset.box_count > 0


NUMBERS = st.sampled_from(["0", "1", "0.5", "0.25", "1e-3", "-1", "2", "nan", "1e400", "1_0", "x", "٣", ""])
LABELS = st.lists(st.lists(NUMBERS, min_size=4, max_size=8).map(" ".join), max_size=3).map("\n".join).map(str.encode)


@SQUEEZED
@given(content=st.one_of(LABELS, LABELS, st.binary(max_size=40)))
def test_any_label_file_gives_a_dataset_or_a_data_error(root: Path, content: bytes) -> None:
    file = text(root / "labels/train/a.txt", content)
    try:
        dataset = yolo.read(root, "train")
    except DataError as error:
        assert error.file == file
        assert error.line
        return
    for one in dataset:
        assert np.isfinite(one.truth.boxes_xyxy).all()
        assert (one.truth.boxes_xyxy[:, 2:] > one.truth.boxes_xyxy[:, :2]).all()


SCALARS = st.sampled_from(["images/train", "labels", "data.yaml", "..", "5", "~", "cat", "&a x", "*a", "!!int x", "\0"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(SCALARS, inner), max_size=3).map(lambda i: f"{{{', '.join(f'{k}: {v}' for k, v in i)}}}")
    ),
    max_leaves=4,
)
KEYS = st.sampled_from(["train", "val", "names", "nc", "path", "kpt_shape", "<<"])
YAMLS = st.lists(st.tuples(KEYS, VALUES), max_size=5).map(lambda rows: "\n".join(f"{k}: {v}" for k, v in rows).encode())
FITTING = YAMLS.map(lambda rows: b"train: images/train\nnames: [cat, dog]\n" + rows)


@SQUEEZED
@given(content=st.one_of(YAMLS, FITTING, st.binary(max_size=40)))
def test_any_yaml_gives_a_dataset_or_a_data_error(root: Path, content: bytes) -> None:
    text(root / "data.yaml", content)
    try:
        assert len(yolo.read(root, "train")) > 0
    except DataError as error:
        assert error.file is not None
