"""Labelled points: read from COCO, checked, written back, mirrored by their names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkit.data import coco
from detkit.data.dataset import Dataset
from detkit.data.keypoints import check_point_names, eye_pair, flip_pairs, labelled_boxes
from detkit.errors import DataError, WeightsError
from detkit.images import write_image

NAMES = ["left_eye", "right_eye", "nose"]


def document(points: Any, **category: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 50}],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "keypoints": points},
            {"id": 8, "image_id": 1, "category_id": 1, "bbox": [50, 10, 30, 30]},
        ],
        "categories": [{"id": 1, "name": "face", "keypoints": NAMES, "skeleton": [[1, 3], [3, 2]], **category}],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    (folder / "images/val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    write_image(folder / "images/val/a.png", np.zeros((50, 100, 3), np.uint8))
    return folder


def read(root: Path, content: Any) -> Dataset:
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    return coco.read(root, "val")


GOOD = [15, 15, 2, 30.5, 15, 1, 0, 0, 0]


def test_points_names_and_edges_survive_writing_and_reading(root: Path, tmp_path: Path) -> None:
    dataset = read(root, document(GOOD))
    truth = dataset.samples[0].truth
    assert dataset.point_names == tuple(NAMES)
    assert dataset.point_edges == ((0, 2), (2, 1))
    np.testing.assert_array_equal(truth.points_xyv[0], np.reshape(GOOD, (3, 3)))
    np.testing.assert_array_equal(truth.points_xyv[1], np.zeros((3, 3)))
    coco.write(dataset, tmp_path / "copy")
    written = json.loads((tmp_path / "copy/annotations/instances_val.json").read_text())
    assert [a["num_keypoints"] for a in written["annotations"]] == [2, 0]
    again = coco.read(tmp_path / "copy", "val")
    assert (again.point_names, again.point_edges) == (dataset.point_names, dataset.point_edges)
    assert again.samples[0].truth == truth
    assert again.content_hash() == dataset.content_hash()


def test_the_hash_knows_points_and_their_names_and_is_as_before_without(root: Path) -> None:
    dataset = read(root, document(GOOD))
    moved = read(root, document([16, *GOOD[1:]]))
    assert len({dataset.content_hash(), moved.content_hash()}) == 2
    assert replace(dataset, point_names=("right_eye", "left_eye", "nose")).content_hash() != dataset.content_hash()
    content = document(GOOD)
    del content["annotations"][0]["keypoints"]
    plain = read(root, content)
    assert plain.point_names == ()
    assert plain.content_hash() == replace(plain, point_edges=((0, 1),)).content_hash()
    rows = np.array([[0, 0, 640, 640, 2560, 2560], [0, 0, 3200, 640, 5120, 2560]], "<i8")  # label, crowd, box x 64
    photo = hashlib.sha256(b"a.png\0" + rows[np.lexsort(rows.T)].tobytes()).digest()
    assert plain.content_hash() == hashlib.sha256(b"face" + photo).hexdigest()


@pytest.mark.parametrize(
    ("keypoints", "said"),
    [
        (GOOD[:-1], "wrong count; found 8; expected 9 numbers"),
        ([*GOOD, 1, 1, 1], "wrong count; found 12;"),
        ("points", "wrong count"),
        (None, "wrong count"),
        (["x", *GOOD[1:]], "not all numbers"),
        ([float("nan"), *GOOD[1:]], "not all numbers"),
        ([True, *GOOD[1:]], "not all numbers"),
        ([15, 15, 3, *GOOD[3:]], "visibility; found 3"),
        ([15, 15, 0.5, *GOOD[3:]], "visibility; found 0.5"),
        ([103, 15, 2, *GOOD[3:]], "outside the 100x50 photo; found [103, 15]"),
        ([15, -2.5, 1, *GOOD[3:]], "outside the 100x50 photo; found [15, -2.5]"),
    ],
)
def test_wrong_points_are_one_line_that_names_file_and_annotation(root: Path, keypoints: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(root, document(keypoints))
    assert said in str(caught.value)
    assert "annotations[0] (id 7)" in str(caught.value)
    assert caught.value.file == root / "annotations/instances_val.json"
    assert "\n" not in str(caught.value)


def test_the_message_names_the_place_in_the_file(root: Path) -> None:
    content = document(GOOD)
    content["annotations"][1]["keypoints"] = [1]
    with pytest.raises(DataError, match=r"annotations\[1\] \(id 8\): the keypoints have a wrong count; found 1;"):
        read(root, content)


@pytest.mark.parametrize("bbox", [None, []])
def test_points_without_a_box_are_refused(root: Path, bbox: object) -> None:
    content = document(GOOD)
    content["annotations"][0]["bbox"] = bbox
    with pytest.raises(
        DataError, match=r"annotations\[0\] \(id 7\): there are keypoints but no bbox; .* expected \[x, y"
    ):
        read(root, content)
    del content["annotations"][0]["bbox"]
    with pytest.raises(DataError, match="there are keypoints but no bbox"):
        read(root, content)


def test_spreads_are_read_and_written(root: Path, tmp_path: Path) -> None:
    assert read(root, document(GOOD)).point_sigmas == ()
    dataset = read(root, document(GOOD, sigmas=[0.1, 0.2, 1]))
    assert dataset.point_sigmas == (0.1, 0.2, 1.0)
    coco.write(dataset, tmp_path / "copy")
    assert coco.read(tmp_path / "copy", "val").point_sigmas == dataset.point_sigmas
    content = document(GOOD, sigmas=[0.1, 0.2, 1])
    content["categories"].append({"id": 2, "name": "dog", "keypoints": NAMES})
    content["annotations"][1]["category_id"] = 2
    assert read(root, content).point_sigmas == ()  # not those of every class


@pytest.mark.parametrize("sigmas", [[0.1, 0.2], [0.1, 0.2, 0], [0.1, 0.2, "x"], 0.1, [0.1, 0.2, True], [0.1, 1, -1]])
def test_wrong_spreads_are_refused(root: Path, sigmas: object) -> None:
    with pytest.raises(DataError, match=r"the sigmas are wrong; .* expected 3 numbers above 0"):
        read(root, document(GOOD, sigmas=sigmas))


def test_a_little_over_the_edge_and_unlabelled_points_anywhere_are_fine(root: Path) -> None:
    dataset = read(root, document([102, -2, 2, 900, 900, 0, 50, 52, 1]))
    assert dataset.samples[0].truth.points_xyv[0, 1].tolist() == [900, 900, 0]


@pytest.mark.parametrize(
    ("category", "said"),
    [
        ({"keypoints": ["a", "a", "b"]}, "same name"),
        ({"keypoints": ["a", 3, "b"]}, "no usable name"),
        ({"keypoints": ["a", " ", "b"]}, "no usable name"),
        ({"skeleton": [[1, 4]]}, "skeleton is wrong; found [1, 4]; expected two point numbers, 1 to 3"),
        ({"skeleton": [[0, 1]]}, "skeleton"),
        ({"skeleton": {"a": 1}}, "skeleton"),
    ],
)
def test_wrong_names_and_edges_are_refused(root: Path, category: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(root, document(GOOD, **category))
    assert said in str(caught.value)


def test_classes_that_name_their_points_differently_share_numbers_only(root: Path) -> None:
    content = document(GOOD)
    content["categories"].append({"id": 2, "name": "dog", "keypoints": ["ear", "ear_2", "tail"]})
    content["annotations"][1]["category_id"] = 2
    assert read(root, content).point_names == ("point_1", "point_2", "point_3")


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"], ((0, 1), (3, 4))),
        (["right_eye", "nose", "left_eye"], ((0, 2),)),
        (["l_ear", "R_ear", "leftHand", "rightHand", "eye l", "eye r"], ((0, 1), (2, 3), (4, 5))),
        (["LeftKneeInner", "RightKneeInner", "LeftKnee", "RightKnee"], ((0, 1), (2, 3))),
        (["tail", "bright", "leftover", "cleft"], ()),
        ([], ()),
    ],
)
def test_mirrored_pairs_are_told_by_their_names(names: list[str], pairs: tuple[tuple[int, int], ...]) -> None:
    assert flip_pairs(names) == pairs


def test_a_side_without_its_counterpart_is_refused() -> None:
    with pytest.raises(DataError, match=r"'left_eye' has no counterpart .* expected a point 'right_eye'"):
        flip_pairs(["left_eye", "rigth_eye"])


def test_the_eyes_are_found_in_whatever_order() -> None:
    assert eye_pair(["nose", "right_eye", "left_eye"]) == (2, 1)
    assert eye_pair(["eyeL", "eyeR"]) == (0, 1)
    assert eye_pair(["left_eye", "right_eye_inner", "nose"]) is None
    assert eye_pair([]) is None


def test_boxes_to_learn_from_have_a_labelled_point_and_are_no_crowds(root: Path) -> None:
    content = document(GOOD)
    assert labelled_boxes(read(root, content)) == [(0, 0)]
    content["annotations"][1] |= {"keypoints": GOOD, "iscrowd": 1}
    assert labelled_boxes(read(root, content)) == [(0, 0)]
    del content["annotations"][0]["keypoints"], content["annotations"][1]["keypoints"]
    with pytest.raises(DataError, match="no box has a labelled point; found 2 boxes without points"):
        labelled_boxes(read(root, content))


def test_other_points_than_the_models_are_refused(root: Path) -> None:
    dataset = read(root, document(GOOD))
    check_point_names(NAMES, dataset)
    with pytest.raises(WeightsError, match="found left_eye, right_eye, nose; expected nose"):
        check_point_names(["nose"], dataset)
