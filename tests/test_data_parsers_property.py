"""Any bytes in a label file give a Dataset or a DataError that names a file; strict reading and checking agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkit.data import formats
from detkit.data.check import read_leniently
from detkit.data.dataset import Dataset, Sample
from detkit.data.findings import CODES
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import write_image

FILES = {  # what is broken, per format
    "coco": ("annotations/instances_train.json",),
    "yolo": ("labels/train/0.txt", "data.yaml"),
    "voc": ("Annotations/0.xml", "ImageSets/Main/train.txt", "classes.txt"),
    "csv": ("train.csv", "classes.txt"),
}
CASES = [(kind, name) for kind, names in FILES.items() for name in names]
TOKENS = {
    "coco": [b"null", b"NaN", b"-Infinity", b"1e400", b"[]", b"{}", b'"id"', b'"bbox"', b"[1,2,3]", b"true",
             b'"\\ud800"', b"1" * 5000, b"[" * 3000, b'"../../x.png"', b'"keypoints": [1,2,2],', b'"iscrowd": 2,'],
    "yolo": [b"nan", b"-0.2", b"1e999", b"1_0", b"80", b" ", b"0.1 0.2 0.3 0.4 0.5 0.6", b"path: ..\n", b"nc: 5\n",
             b"&a ", b"*a", b"[", b"{", b"kpt_shape: [2, 3]\n", b"names: [a, a]\n", b"train: nowhere\n", b"-"],
    "voc": [b"<object>", b"</object>", b"<name></name>", b"<xmin>-3</xmin>", b"nan", b"&b;", b"<!DOCTYPE a []>", b"]]>",
            b"<size><width>8</width><height>0</height></size>", b"<difficult>x</difficult>", b"\n../0\n", b"\n\n"],
    "csv": [b",", b'"', b"\n", b"nan", b"-5", b"1e999", b"x1", b"image", b"\0", b"images/train/1.png,,,,,\n", b"0.5",
            b"../../x.png", b"width", b";", b"\r"],
}  # fmt: skip
ANY_KIND = [b"", b"0", b"-1", b"\xff\xfe", b"\x00", b"\n", b"a" * 300, b"\xef\xbb\xbf", b"\xed\xa0\x80"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, bytes]]]:
    """A sound data set per format, two 16x12 photos with two boxes each, and its label files' bytes."""
    home = tmp_path_factory.mktemp("parsers")
    made = {}
    for kind in FILES:
        samples = []
        for number in range(2):
            path = home / f"{number}.png"
            write_image(path, np.full((12, 16, 3), number, np.uint8))
            truth = Detections((12, 16), np.float32([[1, 2, 9, 8], [3, 3, 12, 11]]), np.array([0, 1]))
            samples.append(Sample(path.name, path, truth, number + 1))
        dataset = Dataset("made", ("cat", "dog"), tuple(samples), home, "coco", "train", (1, 2))
        formats.write(dataset, home / kind, kind)
        made[kind] = home / kind, {name: (home / kind / name).read_bytes() for name in FILES[kind]}
    return made


@st.composite
def edits(draw: st.DrawFn, kind: str) -> list[tuple[float, int, bytes]]:
    """Where (as a share of the file), how many bytes go, and what comes."""
    token = st.sampled_from(TOKENS[kind]) | st.sampled_from(ANY_KIND) | st.binary(max_size=8)
    length = st.sampled_from([0, 0, 1, 3, 10, 10_000])
    return draw(st.lists(st.tuples(st.floats(0, 1), length, token), min_size=1, max_size=4))


def edited(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for share, length, token in changes:
        at = int(share * len(content))
        content = content[:at] + token + content[at + length :]
    return content


def survives(root: Path, name: str, content: bytes, original: bytes) -> None:
    """Both ways of reading end well, and say the same."""
    file = root / name
    file.write_bytes(content)
    try:
        strict, refused = None, None
        try:
            strict = formats.read(root, "train", root.name)
        except DataError as error:
            refused = error
            assert error.file is not None
            assert "\n" not in str(error)
        try:
            reading = read_leniently(root, "train", root.name)
        except DataError:
            assert refused is not None
            return
        errors = [finding for finding in reading.findings if CODES[finding.code].severity == "error"]
        assert (refused is not None) == bool(errors), (refused, errors)
        for dataset in reading.datasets:
            assert is_sound(dataset)
        if strict is not None:
            assert is_sound(strict)
            assert reading.datasets[0].content_hash() == strict.content_hash()
    finally:
        file.write_bytes(original)


def is_sound(dataset: Dataset) -> bool:
    for sample in dataset:
        boxes_xyxy = sample.truth.boxes_xyxy
        assert np.isfinite(boxes_xyxy).all()
        assert (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all()
        assert (sample.truth.labels <= len(dataset.class_names)).all()  # one beyond: YOLO's ids may begin at 1
        assert sample.rows is None or len(sample.rows) == len(sample.truth)
    return True


Roots = dict[str, tuple[Path, dict[str, bytes]]]
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
THOROUGH = settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(("kind", "name"), CASES)
@QUICK
@given(data=st.data())
def test_a_damaged_file_gives_a_dataset_or_a_data_error(
    roots: Roots, kind: str, name: str, data: st.DataObject
) -> None:
    root, originals = roots[kind]
    survives(root, name, edited(originals[name], data.draw(edits(kind))), originals[name])


@pytest.mark.parametrize(("kind", "name"), CASES)
@QUICK
@given(content=st.binary(max_size=200))
def test_any_bytes_end_well(roots: Roots, kind: str, name: str, content: bytes) -> None:
    root, originals = roots[kind]
    survives(root, name, content, originals[name])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), CASES)
@THOROUGH
@given(data=st.data())
def test_5000_damaged_files(roots: Roots, kind: str, name: str, data: st.DataObject) -> None:
    root, originals = roots[kind]
    survives(root, name, edited(originals[name], data.draw(edits(kind))), originals[name])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), CASES)
@THOROUGH
@given(content=st.binary(max_size=200))
def test_5000_files_of_any_bytes(roots: Roots, kind: str, name: str, content: bytes) -> None:
    root, originals = roots[kind]
    survives(root, name, content, originals[name])
