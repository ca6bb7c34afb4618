"""CSV: values, layouts, every refusal, and no input that ends in anything but a Dataset or a DataError."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkit.data import coco, csv_table, formats
from detkit.data.dataset import Dataset, Sample
from detkit.data.findings import Fault
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.images import write_image

SQUEEZED = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADER = "image,x1,y1,x2,y2,label\n"


def photo(path: Path, width: int = 40, height: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((height, width, 3), np.uint8))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for name in ("a", "b", "c"):
        photo(root / "images" / f"{name}.png")
    (root / "train.csv").write_text(
        HEADER + "images/a.png,15,5,25.5,15,dog\nimages/b.png,,,,,\nimages/a.png,0,0,20,10,cat\n"
    )
    (root / "val.csv").write_text(HEADER + "images/c.png,1,2,3,4,ant\n")
    return root


def test_hand_made_values(root: Path) -> None:
    dataset = csv_table.read(root, "train")
    assert (dataset.name, dataset.format, dataset.split) == ("set", "csv", "train")
    assert dataset.class_names == ("ant", "cat", "dog")  # of all splits, sorted
    full, empty = dataset
    assert (full.name, full.image_id, full.truth.size_hw) == ("a.png", 1, (20, 40))
    assert full.truth.boxes_xyxy.tolist() == [[15, 5, 25.5, 15], [0, 0, 20, 10]]
    assert full.truth.labels.tolist() == [2, 1]
    assert full.truth.crowd is not None
    assert full.truth.crowd.tolist() == [False, False]
    assert full.truth.scores is None
    assert full.label_file == root / "train.csv"
    assert full.rows is not None
    assert full.rows.tolist() == [2, 4]
    assert (empty.name, len(empty.truth)) == ("b.png", 0)


def test_listed_classes_come_first_and_a_single_file_means_the_same(root: Path) -> None:
    assert csv_table.read(root / "train.csv").class_names == ("ant", "cat", "dog")
    (root / "classes.txt").write_text("dog\ncat\nant\nowl\n")
    for place in (root, root / "train.csv"):
        dataset = csv_table.read(place, "train")
        assert dataset.class_names == ("dog", "cat", "ant", "owl")
        assert dataset.samples[0].truth.labels.tolist() == [0, 1]
    (root / "classes.txt").write_text("dog\nant\n")
    with pytest.raises(DataError, match="class that is not listed") as caught:
        csv_table.read(root, "train")
    assert (caught.value.file, caught.value.line) == (root / "train.csv", 4)


@pytest.mark.parametrize(
    "content",
    [
        "images/a.png,15,5,25.5,15,dog\nimages/b.png,,,,,\nimages/a.png,0,0,20,10,cat\n",  # RetinaNet: no header
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,40,20,dog,15,5,25.5,15\n"  # Roboflow, TensorFlow
        "b.png,40,20,,,,,\na.png,40,20,cat,0,0,20,10\n",
        '\ufeff"Label","source",X1,Y1,X2,Y2,Image,crowd\r\ndog,me,15,5,25.5,15,images\\a.png,0\r\n\r\n'
        ',,,,,,images/b.png,\r\n"cat","you, too",0,0,20,10,images\\a.png,false\r\n',
    ],
)
def test_variants_mean_the_same(root: Path, content: str) -> None:
    expected = csv_table.read(root, "train").content_hash()
    (root / "train.csv").write_bytes(content.encode())
    assert csv_table.splits(root) == {"train": root / "train.csv", "val": root / "val.csv"}
    assert csv_table.read(root, "train").content_hash() == expected


def test_layouts(root: Path, tmp_path: Path) -> None:
    assert formats.recognise(root).reason == "CSV: train.csv, val.csv"
    (root / "results.csv").write_text("epoch,loss\n1,2\n")
    (root / "classes.csv").write_text("cat,0\n")
    assert list(csv_table.splits(root)) == ["train", "val"]
    for name in ("train", "valid"):
        photo(tmp_path / "export" / name / "a.png")
        table = tmp_path / "export" / name / "_annotations.csv"
        table.write_text("filename,width,height,class,xmin,ymin,xmax,ymax\na.png,40,20,dog,1,2,3,4\n")
    assert formats.splits(tmp_path / "export") == ["train", "val"]
    assert formats.read(tmp_path / "export", "val").box_count == 1
    (root / "train.csv").rename(root / "labels.csv")
    (root / "val.csv").unlink()
    assert formats.read(root).split == ""
    (root / "labels.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"image,x1,y1,x2,y2,label"):
        formats.read(root)


FAULTS = {
    "images/a.png,1,2,3,4": ("labels-wrong", "5 fields", "6, like the first row"),
    "images/a.png,1,2,3,4,cat,9": ("labels-wrong", "7 fields"),
    ",1,2,3,4,cat": ("labels-wrong", "without an image"),
    "images/a.png,1,2,3,4,": ("labels-wrong", "label"),
    "images/a.png,1,2,3,,cat": ("labels-wrong", "the box is wrong"),
    "images/a.png,1,2,x,4,cat": ("labels-wrong", "the box is wrong", "x"),
    "images/a.png,1,2,1_0,4,cat": ("labels-wrong", "1_0"),
    "images/a.png,1,2,nan,4,cat": ("box-not-finite", "nan"),
    "images/a.png,1,2,1e999,4,cat": ("box-not-finite", "1e999"),
    "images/a.png,3,2,1,4,cat": ("box-inverted", "swapped"),
    "images/a.png,3,2,3,4,cat": ("box-empty", "no area"),
    "images/a.png,1,2,1.00000001,4,cat": ("box-empty", "no area"),
    "images/a.png,40,2,50,4,cat": ("box-outside", "40x20"),
    "images/a.png,-4,-5,3,0,cat": ("box-outside", "a box on the photo"),
    "images/a.png,,,,,": ("labels-wrong", "has no boxes", "line 2"),
    "images/z.png,1,2,3,4,cat": ("image-missing", "z.png", "looked in"),
    "images/../images/a.png,1,2,3,4,cat": ("image-twice", "line 2"),
    "../../a.png,1,2,3,4,cat": ("path-outside", "leaves the data folder"),
    "/etc/passwd,1,2,3,4,cat": ("path-outside", "leaves the data folder"),
}


@pytest.mark.parametrize("row", FAULTS)
def test_each_fault_names_file_and_line_and_the_rest_is_read(root: Path, row: str) -> None:
    code, *parts = FAULTS[row]
    (root / "train.csv").write_text(f"{HEADER}images/a.png,0,0,9,9,cat\n\n{row}\nimages/b.png,1,1,2,2,dog\n")
    with pytest.raises(Fault) as caught:
        csv_table.read(root, "train")
    assert (caught.value.code, caught.value.file, caught.value.line) == (code, root / "train.csv", 4)
    for part in parts:
        assert part in str(caught.value)
    faults: list[Fault] = []
    dataset = csv_table.read(root, "train", report=faults.append)
    assert [fault.code for fault in faults] == [code]
    assert dataset.box_count + sum(fault.boxes for fault in faults) == (2 if row.endswith(",,,,,") else 3)
    assert [sample.name for sample in dataset] == ["a.png", "b.png"]


HEADERS = {
    "image,x1,y1,x2,y2": "no column label",
    "image;x1;y1;x2;y2;label": "separated by commas",
    "image,x1,y1,x2,y2,label,class": "two columns for label",
    "image,x1,y1,x2,y2,label,split": "one file per split",
    "image,x1,y1,x2,y2,label,score": "not predictions",
    "image,x,y,w,h,label": "no column x1",
    'image,"x1,y1,x2,y2,label': "not valid CSV",
    "": "empty",
    HEADER: "no images",
}


@pytest.mark.parametrize("header", HEADERS)
def test_each_header_fault_is_named(root: Path, header: str) -> None:
    (root / "other.csv").write_text(header and header.rstrip() + "\n" * (header != HEADER))
    with pytest.raises(DataError, match=HEADERS[header]) as caught:
        csv_table.read(root / "other.csv")
    assert caught.value.file == root / "other.csv"


def test_fractions_are_not_taken_for_pixels(root: Path) -> None:
    (root / "train.csv").write_text(HEADER + "images/a.png,0.25,0.5,0.75,1,dog\nimages/b.png,0,0,1,1,dog\n")
    with pytest.raises(Fault, match="fractions") as caught:
        csv_table.read(root, "train")
    assert (caught.value.code, caught.value.line) == ("box-in-fractions", 2)
    mended = csv_table.read(root, "train", report=lambda fault: None)
    assert [s.truth.boxes_xyxy.tolist() for s in mended] == [[[10, 10, 30, 20]], [[0, 0, 40, 20]]]
    (root / "train.csv").write_text(HEADER + "images/a.png,0,0,1,1,dog\n")  # one pixel, in whole numbers
    assert csv_table.read(root, "train").box_count == 1


def test_written_data_reads_back_equal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, [[[9999]], [[777]]], (2, 50, 2)), axis=2)  # [xy, N, 2]
    boxes_xyxy = corners.transpose(1, 2, 0).reshape(50, 4).astype(np.float32)
    crowd = rng.random(50) < 0.1
    names = ("größe", 'a, "b"', "no")
    truth = Detections((777, 9999), boxes_xyxy, rng.integers(0, 3, 50), crowd=crowd)
    samples = [
        Sample("deep/a, b.png", photo(tmp_path / "source/a.png", 9999, 777), truth, 1),
        Sample("c.png", photo(tmp_path / "source/c.png"), Detections.empty((20, 40), scored=False), 2),
    ]
    dataset = Dataset("made", names, tuple(samples), tmp_path, "coco", "val", (1, 2, 3))
    assert csv_table.write(dataset, tmp_path / "new") == []
    back = csv_table.read(tmp_path / "new")
    assert (back.class_names, [sample.name for sample in back]) == (names, ["deep/a, b.png", "c.png"])
    first, second = back
    np.testing.assert_allclose(first.truth.boxes_xyxy, boxes_xyxy, atol=1e-3)
    np.testing.assert_array_equal(first.truth.labels, truth.labels)
    assert first.truth.crowd is not None
    np.testing.assert_array_equal(first.truth.crowd, crowd)
    assert len(second.truth) == 0
    with pytest.raises(UsageError, match="not an empty folder"):
        csv_table.write(dataset, tmp_path / "new")


def test_points_that_cannot_be_carried_are_said(tmp_path: Path) -> None:
    truth = Detections((20, 40), np.array([[1, 2, 3, 4]]), np.array([0]), points_xyv=np.ones((1, 5, 3), np.float32))
    sample = Sample("a.png", photo(tmp_path / "a.png"), truth, 1)
    dataset = Dataset("made", ("x",), (sample,), tmp_path, "coco", "", (1,))
    assert csv_table.write(dataset, tmp_path / "new") == ["the points of 1 objects are left out: CSV cannot carry them"]
    assert (tmp_path / "new/train.csv").read_text() == HEADER + "images/train/a.png,1,2,3,4,x\n"


@pytest.mark.parametrize("name", ["street5", "nuclei"])
def test_real_sets_survive_the_way_through_csv(shared_data: Path, tmp_path: Path, name: str) -> None:
    dataset = coco.read(shared_data / name, "val")
    csv_table.write(dataset, tmp_path / "csv")
    assert csv_table.read(tmp_path / "csv", "val").content_hash() == dataset.content_hash()


CELLS = st.sampled_from(
    [
        "images/a.png",
        "images/b.png",
        "..",
        "",
        "0",
        "1",
        "2.5",
        "-1",
        "nan",
        "1e400",
        "1_0",
        "cat",
        '"',
        '""',
        "\0",
        " ",
    ]
)
ROWS = st.lists(st.lists(CELLS, min_size=5, max_size=7).map(",".join), max_size=4).map("\n".join).map(str.encode)
FITTING = ROWS.map(lambda rows: HEADER.encode() + b"images/b.png,1,1,2,2,cat\n" + rows)


@SQUEEZED
@given(content=st.one_of(ROWS, FITTING, FITTING, st.binary(max_size=60)))
def test_any_file_gives_a_dataset_or_a_data_error(root: Path, content: bytes) -> None:
    file = root / "train.csv"
    file.write_bytes(content)
    try:
        dataset = csv_table.read(file)
    except DataError as error:
        assert error.file is not None
        dataset = None
    faults: list[Fault] = []
    try:
        mended = csv_table.read(file, report=faults.append)
    except DataError as error:  # the file as a whole
        assert error.file == file
        assert dataset is None
        return
    assert bool(faults) == (dataset is None)
    for one in mended:
        assert np.isfinite(one.truth.boxes_xyxy).all()
        assert (one.truth.boxes_xyxy[:, 2:] > one.truth.boxes_xyxy[:, :2]).all()
