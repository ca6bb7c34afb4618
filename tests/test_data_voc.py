"""Pascal VOC XML: values, layouts, every refusal, and no input that ends in anything but a Dataset or a DataError."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkit.data import coco, voc
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.images import write_image

SQUEEZED = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZE = "<size><width>40</width><height>20</height><depth>3</depth></size>"


def photo(path: Path, width: int = 40, height: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((height, width, 3), np.uint8))
    return path


def thing(name: str, *corners: object, extra: str = "") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=False)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def xml(path: Path, *things: str, size: str = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>\n<filename>x.png</filename>{size}\n{''.join(things)}</annotation>", encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A VOCdevkit folder: a and b for training, c for validation; only c shows a cat."""
    root = tmp_path / "set"
    for name in "abc":
        photo(root / "JPEGImages" / f"{name}.png")
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    xml(
        root / "Annotations/a.xml",
        thing("dog", 1, 1, 40, 20, extra="<difficult>1</difficult>" + part),
        thing(" dog ", 11, "5.5", "11", 6, extra="<truncated>1</truncated>"),
    )
    xml(root / "Annotations/b.xml")
    xml(root / "Annotations/c.xml", thing("cat", 3, 4, 10, 12, extra="<difficult>0</difficult>"))
    lists = root / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\n")
    (lists / "val.txt").write_text("c\n")
    (lists / "dog_train.txt").write_text("b -1\na 1\n")
    return root


def test_hand_made_values(root: Path) -> None:
    dataset = voc.read(root, "train")
    assert (dataset.name, dataset.format, dataset.split) == ("set", "voc", "train")
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (1, 2))
    empty, full = dataset
    assert (empty.name, len(empty.truth), empty.truth.crowd.shape) == ("b.png", 0, (0,))
    assert (full.name, full.image_id, full.truth.size_hw) == ("a.png", 2, (20, 40))
    assert full.truth.boxes_xyxy.tolist() == [[0, 0, 40, 20], [10, 4.5, 11, 6]]  # from 1, last pixel included
    assert full.truth.labels.tolist() == [1, 1]
    assert full.truth.crowd.tolist() == [True, False]
    assert set(voc.splits(root)) == {"train", "val"}


def test_class_names_are_those_of_all_splits_or_of_a_list(root: Path) -> None:
    assert voc.read(root, "val").class_names == voc.read(root, "train").class_names == ("cat", "dog")
    (root / "classes.txt").write_text("dog\nbird\ncat\n")
    dataset = voc.read(root, "val")
    assert dataset.class_names == ("dog", "bird", "cat")
    assert dataset.samples[0].truth.labels.tolist() == [2]
    (root / "classes.txt").write_text("dog\n")
    with pytest.raises(DataError, match=r"not listed.*cat") as caught:
        voc.read(root, "train")
    assert caught.value.file == root / "Annotations/c.xml"


def test_size_comes_from_the_header_when_the_xml_has_none(root: Path) -> None:
    photo(root / "JPEGImages/c.png", 33, 44)
    for size in ("", "<size><width>0</width><height>0</height></size>", "<size><width>x</width></size>"):
        xml(root / "Annotations/c.xml", size=size)
        assert voc.read(root, "val").samples[0].truth.size_hw == (44, 33)


FAULTS = {
    thing("cat", 5, 4, 3, 12): ["object 2 (cat)", "no area", "'5', '4', '3', '12'"],
    thing("cat", "nan", 4, 3, 12): ["bndbox is wrong", "nan"],
    thing("cat", 1, 4, "inf", 12): ["bndbox is wrong"],
    thing("cat", 1, 4, 1, 4e9): ["bndbox is wrong"],
    thing("cat", 1, 4, "1_0", 12): ["bndbox is wrong"],
    thing("cat", "", 4, 10, 12): ["bndbox is wrong"],
    thing("cat", 1, 4, 10): ["bndbox is wrong"],
    thing("cat", 41, 4, 50, 12): ["object 2", "outside the 40x20 photo"],
    thing("cat", -9, 4, 0, 12): ["outside"],
    thing("", 1, 4, 10, 12): ["name or difficult"],
    thing("cat", 1, 4, 10, 12, extra="<difficult>maybe</difficult>"): ["difficult", "maybe"],
    "<object><name>cat</name></object>": ["bndbox is wrong"],
    "<object><bndbox/></object>": ["bndbox is wrong"],
}


@pytest.mark.parametrize("fault", FAULTS, ids=range(len(FAULTS)))
def test_each_fault_is_named(root: Path, fault: str) -> None:
    file = xml(root / "Annotations/a.xml", thing("cat", 3, 4, 10, 12), fault)
    with pytest.raises(DataError) as caught:
        voc.read(root, "train")
    assert caught.value.file == file
    for part in FAULTS[fault]:
        assert part in str(caught.value)


BOMB = b'<!DOCTYPE a [<!ENTITY b "' + b"b" * 99 + b'"><!ENTITY c "' + b"&b;" * 99 + b'">]><annotation>&c;</annotation>'
NOT_VOC = {
    b"": "empty",
    b"<annotation>\n<object>": "not valid XML",
    b"<html/>": "<annotation>",
    BOMB: "entities are refused",
    b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>': "entities are refused",
    b'<?xml version="1.0" encoding="nonsense"?><annotation/>': "not valid XML",
    b'<?xml version="1.0" encoding="shift_jis"?><annotation/>': "not valid XML",
    b"<annotation>\xff</annotation>": "not valid XML",
    b"<annotation>\0</annotation>": "not valid XML",
    b"<a>" * 100_000: "not valid XML",
}


@pytest.mark.parametrize("content", NOT_VOC, ids=range(len(NOT_VOC)))
def test_what_is_no_label_file_is_refused(root: Path, content: bytes) -> None:
    file = root / "Annotations/a.xml"
    file.write_bytes(content)
    with pytest.raises(DataError, match=NOT_VOC[content]) as caught:
        voc.read(root, "val")  # class names are those of all splits, so every file must be sound
    assert caught.value.file == file


def test_a_syntax_error_names_its_line(root: Path) -> None:
    (root / "Annotations/a.xml").write_text("<annotation>\n<a>\n</b>")
    with pytest.raises(DataError) as caught:
        voc.read(root, "train")
    assert caught.value.line == 3


def test_labels_and_photos_must_meet(root: Path) -> None:
    orphan = xml(root / "Annotations/z.xml")
    with pytest.raises(DataError, match="label file without a photo") as caught:
        voc.read(root, "train")
    assert caught.value.file == orphan
    orphan.unlink()
    twin = photo(root / "JPEGImages/a.bmp")
    with pytest.raises(DataError, match="share one label file"):
        voc.read(root, "train")
    twin.unlink()
    photo(root / "JPEGImages/x.png")
    xml(root / "Annotations/p.xml").replace(root / "Annotations/q.xml")  # its `filename` says x.png
    assert voc.read(root, "train").box_count == 2
    xml(root / "Annotations/p.xml")
    with pytest.raises(DataError, match="second label file"):
        voc.read(root, "train")


@pytest.mark.parametrize(("line", "what"), [("z", "no such photo"), ("a", "listed once"), ("d", "no label file")])
def test_a_list_names_photos_with_labels(root: Path, line: str, what: str) -> None:
    photo(root / "JPEGImages/d.png")
    file = root / "ImageSets/Main/train.txt"
    file.write_text(f"a\n{line}\n")
    with pytest.raises(DataError, match=what) as caught:
        voc.read(root, "train")
    assert (caught.value.file, caught.value.line) == (file, 2)


def test_layouts(root: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    kit.mkdir()
    root.rename(kit / "VOC2007")
    assert voc.read(kit, "train").box_count == 2
    (kit / "VOCdevkit").mkdir()
    (kit / "VOC2007").rename(kit / "VOCdevkit/VOC2012")
    assert voc.read(kit, "val").box_count == 1
    photo(kit / "VOC2007/JPEGImages/a.png")
    xml(kit / "VOC2007/Annotations/a.xml")
    with pytest.raises(DataError, match="several VOC data sets"):
        voc.splits(kit)
    photo(tmp_path / "flat/a.jpg")
    photo(tmp_path / "flat/b.jpg")
    xml(tmp_path / "flat/b.xml", thing("cat", 3, 4, 10, 12))
    dataset = voc.read(tmp_path / "flat")
    assert [len(sample.truth) for sample in dataset] == [0, 1]
    for split in ("train", "valid"):
        photo(tmp_path / f"roboflow/{split}/{split}.jpg")
        xml(tmp_path / f"roboflow/{split}/{split}.xml", thing(split, 3, 4, 10, 12))
        photo(tmp_path / f"pairs/images/{split}/{split}.jpg")
        xml(tmp_path / f"pairs/annotations/{split}/{split}.xml", thing(split, 3, 4, 10, 12))
    for name in ("roboflow", "pairs"):
        assert set(voc.splits(tmp_path / name)) == {"train", "val"}
        dataset = voc.read(tmp_path / name, "val")
        assert (len(dataset), dataset.class_names) == (1, ("train", "valid"))


def test_written_data_reads_back_equal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, [[[333]], [[257]]], (2, 50, 2)), axis=2)  # [xy, N, 2]
    boxes_xyxy = corners.transpose(1, 2, 0).reshape(50, 4).astype(np.float32)
    truth = Detections((257, 333), boxes_xyxy, rng.integers(0, 3, 50), crowd=rng.random(50) < 0.2)
    names = ("zebra <&>", "ant \"'", "größe")
    path = photo(tmp_path / "source/a&b.png", 333, 257)
    samples = Sample("in/a&b.png", path, truth, 1), Sample("empty.png", path, Detections.empty((257, 333)), 2)
    dataset = Dataset("x", names, samples, tmp_path, "coco", "val", (1, 2, 3))
    assert voc.write(dataset, tmp_path / "new") == []
    back = voc.read(tmp_path / "new", "val")
    assert back.class_names == names
    assert [sample.name for sample in back] == ["in_a&b.png", "empty.png"]
    np.testing.assert_array_equal(back.samples[0].truth.labels, truth.labels)
    np.testing.assert_array_equal(back.samples[0].truth.crowd, truth.crowd)
    np.testing.assert_allclose(back.samples[0].truth.boxes_xyxy, boxes_xyxy, atol=1e-3)
    text = (tmp_path / "new/Annotations/in_a&b.xml").read_text(encoding="utf-8")
    assert f"<name>{escape(names[truth.labels[0]])}</name>" in text


def test_photos_of_one_name_in_two_splits_are_told_apart(root: Path, tmp_path: Path) -> None:
    val = voc.read(root, "val")
    again = Dataset("x", val.class_names, val.samples, root, "voc", "train", (1, 2))
    voc.write([val, again], tmp_path / "new")
    assert [voc.read(tmp_path / "new", split).samples[0].name for split in ("train", "val")] == [
        "train_c.png",
        "val_c.png",
    ]
    with pytest.raises(UsageError, match="empty folder"):
        voc.write(val, tmp_path / "new")


@pytest.mark.parametrize("name", ["bccd", "nuclei", "street5"])
def test_real_sets_survive_the_way_through_voc(shared_data: Path, tmp_path: Path, name: str) -> None:
    dataset = coco.read(shared_data / name, "val")
    voc.write(dataset, tmp_path / "voc")
    coco.write(voc.read(tmp_path / "voc", "val"), tmp_path / "coco")
    back = coco.read(tmp_path / "coco", "val")
    assert back.content_hash() == dataset.content_hash()
    assert back.box_count == dataset.box_count > 0


NUMBERS = st.sampled_from(["1", "5", "2.5", "10", "0", "-3", "nan", "1e999", "1_0", "x", "", " 7 "])
NAMES = st.sampled_from(["cat", "dog", "", " ", "&lt;", "\x7f", "ж"])
THINGS = st.builds(
    lambda name, corners, extra: thing(name, *corners, extra=extra),
    NAMES,
    st.lists(NUMBERS, min_size=3, max_size=4) | st.just([1, 2, 10, 12]),
    st.sampled_from(["", "<difficult>1</difficult>", "<difficult>2</difficult>", "<object/>", "<part><name/></part>"]),
)
SIZES = st.sampled_from(
    [SIZE, "", "<size/>", SIZE.replace("40", "4" * 5000), SIZE.replace("40", "-1"), "<size>", "&b;"]
)
FILES = st.builds(lambda things, size: f"<annotation>{size}{''.join(things)}</annotation>", st.lists(THINGS), SIZES)


@SQUEEZED
@given(content=st.one_of(FILES.map(str.encode), FILES.map(str.encode), st.binary(max_size=40)))
def test_any_xml_gives_a_dataset_or_a_data_error(root: Path, content: bytes) -> None:
    file = root / "Annotations/a.xml"
    file.write_bytes(content)
    try:
        dataset = voc.read(root, "train")
    except DataError as error:
        assert error.file == file
        return
    for one in dataset:
        assert np.isfinite(one.truth.boxes_xyxy).all()
        assert (one.truth.boxes_xyxy[:, 2:] > one.truth.boxes_xyxy[:, :2]).all()
