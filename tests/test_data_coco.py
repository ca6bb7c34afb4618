"""COCO JSON: values, layouts, every refusal, and no input that ends in anything but a Dataset or a DataError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from detkit.data import coco
from detkit.data.dataset import Dataset
from detkit.errors import DataError, UsageError
from detkit.images import write_image

SQUEEZED = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def photo(path: Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((height, width, 3), np.uint8))


def document() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 3, "file_name": "b.png", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 9, "bbox": [1, 2, 10, 20], "iscrowd": 1, "area": 150.5},
            {"id": 2, "image_id": 3, "category_id": 4, "bbox": [0.5, 0.25, 3, 4], "iscrowd": 0, "area": 12},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
    }


def saved(root: Path, content: Any, name: str = "annotations/instances_train.json") -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        photo(tmp_path / "set" / "images" / "train" / f"{name}.png")
    saved(tmp_path / "set", document())
    return tmp_path / "set"


def refused(root: Path, content: Any) -> DataError:
    file = saved(root, content)
    with pytest.raises(DataError) as caught:
        coco.read(root, "train")
    assert caught.value.file == file
    assert "\n" not in str(caught.value)
    return caught.value


def test_hand_made_values(root: Path) -> None:
    dataset = coco.read(root, "train")
    assert (dataset.name, dataset.format, dataset.split) == ("set", "coco", "train")
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (4, 9))
    empty, full = dataset
    assert (empty.name, empty.image_id, len(empty.truth), empty.truth.size_hw) == ("a.png", 7, 0, (30, 40))
    assert (full.name, full.image_id) == ("b.png", 3)
    assert full.image_path == root / "images/train/b.png"
    np.testing.assert_array_equal(full.truth.boxes_xyxy, np.float32([[1, 2, 11, 22], [0.5, 0.25, 3.5, 4.25]]))
    np.testing.assert_array_equal(full.truth.labels, [1, 0])
    np.testing.assert_array_equal(full.truth.crowd, [True, False])
    np.testing.assert_array_equal(full.areas_px, [150.5, 12])
    assert full.areas_px.dtype == np.float64
    assert full.truth.scores is None
    assert dataset.box_count == 2


def test_photos_without_any_label_are_ordinary(root: Path) -> None:
    saved(root, {**document(), "annotations": []})
    dataset = coco.read(root, "train")
    assert [len(sample.truth) for sample in dataset] == [0, 0]
    assert dataset.samples[0].truth.crowd is not None


def test_size_comes_from_the_header_when_the_file_has_none(root: Path) -> None:
    content = document()
    del content["images"][0]["width"]
    photo(root / "images/train/a.png", 50, 20)
    saved(root, content)
    assert coco.read(root, "train").samples[0].truth.size_hw == (20, 50)


def test_a_polygon_stands_in_for_a_missing_bbox(root: Path) -> None:
    content = document()
    content["annotations"][1] = {
        "image_id": 3, "category_id": 4, "segmentation": [[3, 4, 9, 5, 6, 11], [1, 8, 2, 9, 2, 8]],
    }  # fmt: skip
    saved(root, content)
    np.testing.assert_array_equal(coco.read(root, "train").samples[1].truth.boxes_xyxy[1], [1, 4, 9, 11])


def test_boxes_over_the_edge_are_kept_as_they_are(root: Path) -> None:
    content = document()
    content["annotations"][0]["bbox"] = [-2, -3, 100, 10]
    saved(root, content)
    np.testing.assert_array_equal(coco.read(root, "train").samples[1].truth.boxes_xyxy[0], [-2, -3, 98, 7])


def test_keypoints_need_one_count_for_all_classes_used(root: Path) -> None:
    content = document()
    for entry in content["categories"]:
        entry["keypoints"] = ["nose", "tail"]
    content["annotations"][0]["keypoints"] = [5, 6, 2, 0, 0, 0]
    saved(root, content)
    first, second = coco.read(root, "train")
    assert first.truth.points_xyv.shape == (0, 2, 3)
    np.testing.assert_array_equal(second.truth.points_xyv, [[[5, 6, 2], [0, 0, 0]], np.zeros((2, 3))])
    content["categories"][1]["keypoints"] = ["nose"]
    saved(root, content)
    assert coco.read(root, "train").samples[1].truth.points_xyv is None
    content["categories"][1]["keypoints"] = ["nose", "tail"]
    content["annotations"][0]["keypoints"] = [5, 6, 2]
    assert "keypoints" in str(refused(root, content))
    for entry in content["categories"]:
        entry["keypoints"] = 5
    saved(root, content)
    assert coco.read(root, "train").samples[1].truth.points_xyv is None


FAULTS = {  # what is changed -> what the message must name
    "annotations.0.bbox=[1, 2, NaN, 4]": ["annotations[0] (id 1)", "not finite", "nan"],
    "annotations.0.bbox=[1, 2, Infinity, 4]": ["not finite", "inf"],
    "annotations.0.bbox=[1, 2, 0, 4]": ["no area", "[1, 2, 0, 4]", "above 0"],
    "annotations.0.bbox=[1, 2, 5, -4]": ["no area"],
    "annotations.0.bbox=[1, 2, 3, 1e-9]": ["no area"],
    "annotations.0.bbox=[1, 2, 3]": ["bbox is wrong"],
    'annotations.0.bbox=["1", 2, 3, 4]': ["bbox is wrong", "'1'"],
    "annotations.0.bbox=[true, 2, 3, 4]": ["bbox is wrong"],
    "annotations.0.bbox=null": ["bbox is wrong", "None"],
    "annotations.0.bbox=[41, 2, 3, 4]": ["outside its 40x30 photo"],
    "annotations.0.bbox=[-9, 2, 3, 4]": ["outside"],
    "annotations.0.bbox=[1, 2, 3, 1e400]": ["not finite"],
    f"annotations.0.bbox=[1, 2, 3, -1{'0' * 400}]": ["not finite"],
    "annotations.0.category_id=5": ["unknown category_id", "5", "[4, 9]"],
    'annotations.0.category_id="9"': ["unknown category_id", "'9'"],
    "annotations.0.category_id=[9]": ["unknown category_id"],
    "annotations.0.image_id=99": ["a photo that is not in the list", "99"],
    'annotations.0.image_id="3"': ["a photo that is not in the list", "'3'"],
    "annotations.0.image_id={}": ["a photo that is not in the list"],
    "annotations.0.iscrowd=2": ["iscrowd"],
    "annotations.0.area=-1": ["area"],
    'annotations.0.area="12"': ["area"],
    "annotations.1.id=1": ["annotations[1]", "id is wrong", "1"],
    "annotations.0=7": ["annotations[0]"],
    "annotations=3": ["annotations is wrong", "3"],
    "images=3": ["images is wrong", "3", "a list"],
    "images=[]": ["no images"],
    "images.1.id=7": ["images[1].id", "7", "once"],
    'images.1.id="7"': ["images[1].id", "'7'"],
    "images.1.file_name=null": ["images[1].file_name"],
    'images.1.file_name="a.png"': ["images[1].file_name", "once"],
    'images.1.file_name="c.png"': ["'c.png'", "image id 3", "missing", "images/train"],
    'images.1.file_name="\\u0000"': ["missing"],
    'images.1.file_name="\\ud800"': ["missing"],
    'images.1.file_name="\\u0000/a.png"': ["missing"],
    'images.1.file_name="\\ud800/a.png"': ["missing"],
    'images.1.width="40"': ["images[1]", "height and width"],
    "images.1.width=0": ["height and width"],
    "images.1.height=NaN": ["height and width"],
    "categories=null": ["categories is wrong"],
    "categories=[]": ["no classes"],
    "categories.0.id=4": ["categories[1].id", "4"],
    "categories.0.id=null": ["categories[0].id"],
    'categories.0.name="cat"': ["same name", "cat"],
    'categories.0.name=""': ["no usable name"],
    "categories.0.name=5": ["no usable name", "5"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(root: Path, fault: str) -> None:
    place, _, value = fault.partition("=")
    *inner, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    content = document()
    target: Any = content
    for key in inner:
        target = target[key]
    target[last] = json.loads(value)
    message = str(refused(root, content))
    for part in FAULTS[fault]:
        assert part in message


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"{", b"[1]", b"null", b'"x"', b"\xff\xfe{", b"\x80", b"[" * 100_000, b"1" * 5000, b'{"images": [}'],
)
def test_what_is_no_label_file_is_refused(root: Path, content: bytes) -> None:
    refused(root, content)


def test_a_syntax_error_names_its_line(root: Path) -> None:
    assert refused(root, b'{\n "images": [],\n oops}').line == 3


@pytest.mark.parametrize(
    ("labels", "photos", "split"),
    [
        ("annotations/instances_val2017.json", "val2017", "val"),
        ("annotations/val.json", "images/val", "val"),
        ("annotations/instances_train.json", "images", "train"),
        ("annotations/instances_default.json", "images", ""),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("_annotations.coco.json", ".", ""),
        ("labels.json", "data", ""),
        ("train.json", "images", "train"),
    ],
)
def test_layouts(tmp_path: Path, labels: str, photos: str, split: str) -> None:
    for name in ("a.png", "b.png"):
        photo(tmp_path / photos / name)
    file = saved(tmp_path, document(), labels)
    assert coco.splits(tmp_path) == {split: file}
    assert [sample.image_path for sample in coco.read(tmp_path)] == [
        tmp_path / photos / "a.png",
        tmp_path / photos / "b.png",
    ]
    assert len(coco.read(file, split)) == 2


def test_instances_win_over_other_annotations_and_years_stay_apart(root: Path) -> None:
    saved(root, {}, "annotations/captions_train.json")
    saved(root, {}, "annotations/person_keypoints_train.json")
    assert list(coco.splits(root)) == ["train"]
    for name in ("instances_train2014", "instances_train2017"):
        saved(root, document(), f"annotations/{name}.json")
    assert set(coco.splits(root)) == {"instances_train", "instances_train2014", "instances_train2017"}


def test_an_absent_split_lists_those_found(root: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'val'.*found train"):
        coco.read(root, "val")
    saved(root, document(), "annotations/instances_val.json")
    with pytest.raises(DataError, match="found train, val"):
        coco.read(root)


def test_labels_alone_serve_an_evaluation(tmp_path: Path) -> None:
    file = saved(tmp_path, document(), "instances_val2014_100.json")
    with pytest.raises(DataError, match="missing"):
        coco.read(file)
    assert coco.read(file, need_photos=False).box_count == 2


def equal(a: Dataset, b: Dataset) -> bool:
    return a.class_names == b.class_names and all(
        x.truth == y.truth and x.name == y.name and x.image_id == y.image_id for x, y in zip(a, b, strict=True)
    )


def test_written_data_reads_back_equal(root: Path, tmp_path: Path) -> None:
    dataset = coco.read(root, "train")
    assert coco.write(dataset, tmp_path / "new") == []
    back = coco.read(tmp_path / "new", "train")
    assert equal(dataset, back)
    assert back.category_ids == (4, 9)
    np.testing.assert_array_equal(back.samples[1].areas_px, dataset.samples[1].areas_px)
    assert dataset.content_hash() == back.content_hash()
    assert (tmp_path / "new/images/train/a.png").samefile(root / "images/train/a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "set"]


def test_writing_refuses_a_folder_with_content_and_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    dataset = coco.read(root, "train")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="not an empty folder"):
        coco.write(dataset, root)
    (root / "images/train/b.png").unlink()
    with pytest.raises(DataError, match="missing"):
        coco.write(dataset, tmp_path / "new")
    assert sorted(tmp_path.rglob("*")) == [path for path in before if path.name != "b.png"]


def test_a_name_that_leaves_the_folder_is_not_written(root: Path, tmp_path: Path) -> None:
    content = document()
    content["images"][0]["file_name"] = "../train/a.png"
    saved(root, content)
    with pytest.raises(DataError, match="leaves"):
        coco.write(coco.read(root, "train"), tmp_path / "new")


def test_pycocotools_reads_the_written_file_alike(root: Path, tmp_path: Path) -> None:
    coco.write(coco.read(root, "train"), tmp_path / "new")
    loaded = COCO(str(tmp_path / "new/annotations/instances_train.json"))
    rows = loaded.loadAnns(loaded.getAnnIds(imgIds=[3]))
    assert [row["bbox"] for row in rows] == [[1, 2, 10, 20], [0.5, 0.25, 3, 4]]
    assert [(row["category_id"], row["iscrowd"], row["area"]) for row in rows] == [(9, 1, 150.5), (4, 0, 12)]


@pytest.mark.parametrize(
    ("name", "split", "photos", "boxes", "classes"),
    [
        ("street5", "train", 1803, 4469, 5), ("street5", "val", 386, 1019, 5), ("coco", "train", 398, 3255, 80),
        ("coco", "val", 85, 623, 80), ("bccd", "train", 205, 2804, 3), ("bccd", "val", 87, 1137, 3),
        ("fddb", "train", 800, 1439, 1), ("fddb", "val", 150, 274, 1), ("faces5", "train", 3500, 3500, 1),
        ("nuclei", "train", 104, 3167, 1), ("nuclei", "val", 33, 1230, 1), ("openimages", "val", 14, 37, 5),
    ],
)  # fmt: skip
def test_real_sets_have_the_stated_counts(
    shared_data: Path, name: str, split: str, photos: int, boxes: int, classes: int
) -> None:
    dataset = coco.read(shared_data / name, split)
    assert (len(dataset), dataset.box_count, len(dataset.class_names)) == (photos, boxes, classes)
    if name == "faces5":
        assert all(sample.truth.points_xyv.shape == (1, 5, 3) for sample in dataset)


def test_real_boxes_are_those_of_pycocotools(shared_data: Path) -> None:
    file = shared_data / "street5/annotations/instances_val.json"
    loaded, dataset = COCO(str(file)), coco.read(file)
    for sample in dataset:
        rows = loaded.loadAnns(loaded.getAnnIds(imgIds=[sample.image_id]))
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_array_equal(sample.truth.boxes_xyxy, boxes.astype(np.float32))
        np.testing.assert_array_equal(sample.areas_px, [row["area"] for row in rows])
        names = [loaded.cats[row["category_id"]]["name"] for row in rows]
        assert [dataset.class_names[label] for label in sample.truth.labels] == names


ODD = [
    None,
    True,
    0,
    -1,
    1.5,
    10**400,
    -(10**400),
    float("nan"),
    float("inf"),
    "",
    "1",
    "\ud800",
    [],
    [[]],
    {},
    [1, "x"],
]
ANYTHING = st.sampled_from(ODD) | st.integers() | st.floats()


def some(*usual: Any) -> st.SearchStrategy[Any]:
    """Usually a value that fits, now and then anything JSON can hold."""
    return st.one_of(*[st.sampled_from(usual)] * 5, ANYTHING)


ENTRIES = {
    "images": {"id": some(1, 2), "file_name": some("a.png", "b.png"), "width": some(40), "height": some(30)},
    "categories": {"id": some(1, 2), "name": some("cat", "dog"), "keypoints": some(["p"], ["p", "q"])},
    "annotations": {
        "id": some(1, 2, 3), "image_id": some(1, 2), "category_id": some(1, 2), "iscrowd": some(0, 1),
        "bbox": st.lists(some(1, 2.5, 9), min_size=4, max_size=4) | ANYTHING,
        "area": some(5), "keypoints": some([1, 2, 2]), "segmentation": some([[1, 1, 5, 5, 1, 5]]),
    },
}  # fmt: skip
DOCUMENTS = st.fixed_dictionaries(
    {
        key: st.lists(st.fixed_dictionaries({}, optional=fields) | st.fixed_dictionaries(fields), max_size=3) | ANYTHING
        for key, fields in ENTRIES.items()
    }
)


@SQUEEZED
@given(content=st.one_of(DOCUMENTS, DOCUMENTS, st.binary(max_size=40)))
def test_any_content_gives_a_dataset_or_a_data_error(root: Path, content: Any) -> None:
    file = saved(root, content)
    try:
        dataset = coco.read(root, "train")
    except DataError as error:
        assert error.file == file
        str(error).encode()
        return
    for sample in dataset:
        assert np.isfinite(sample.truth.boxes_xyxy).all()
        assert (sample.truth.boxes_xyxy[:, 2:] > sample.truth.boxes_xyxy[:, :2]).all()
