"""Stored results: numbers kept to the last bit, photos found by id or name, and one clear line for every bad file."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluate_coco import dataset_of, found, random_case, truth

from detkit.data import coco
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import DataError, ExitCode
from detkit.evaluate.coco import evaluate, results_list
from detkit.evaluate.columns import Results, truth_columns
from detkit.evaluate.matching import average_precisions, match
from detkit.evaluate.results_file import read_results

DATA = dataset_of([truth(), truth(), truth()], classes=2, image_ids=[9, 4, 7], category_ids=(1, 2))
ROW = {"image_id": 4, "category_id": 2, "bbox": [10.5, 20, 30, 40.25], "score": 0.75}


def write(tmp_path: Path, content: Any, name: str = "results.json") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def jsonl(tmp_path: Path, *records: Any) -> Path:
    return write(tmp_path, b"".join(json.dumps(record).encode() + b"\n" for record in records), "detections.jsonl")


def photo(name: str, *rows: Any, **changes: Any) -> dict[str, Any]:
    keys = ("class", "score", "box_xyxy")
    rows = tuple({"label": 7, **dict(zip(keys, row, strict=True))} for row in rows)
    size = {"width": 400, "height": 300}
    return {"version": 2, "kind": "photo", "name": name, **size, "detections": list(rows)} | changes


def refusal(path: Path, dataset: Dataset = DATA) -> str:
    with pytest.raises(DataError) as caught:
        read_results(path, dataset)
    message = str(caught.value)
    assert caught.value.exit_code is ExitCode.DATA
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message.removeprefix(str(path))


def test_a_results_list(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "image_id": 9, "score": 1}, {**ROW, "category_id": 1, "score": 0}]
    results = read_results(write(tmp_path, rows), DATA)
    assert [len(one) for one in results] == [1, 2, 0]
    assert results[1] == found((10.5, 20, 40.5, 60.25, 1, 0.75), (10.5, 20, 40.5, 60.25, 0, 0))
    assert results[-1] == Detections.empty((300, 400))
    assert results[:2] == (results[0], results[1])
    assert results.notes == ("1 of 3 photos have no results and count as empty",)
    assert results_list(DATA, results) == [rows[0], rows[2], rows[1]]  # by image id


def test_numbers_stay_as_they_are_in_the_file(tmp_path: Path) -> None:
    """In float32 these scores are equal, and the box is 0.5 of the truth no more."""
    high, low = 0.87654321, 0.87654320
    assert np.float32(high) == np.float32(low)
    dataset = dataset_of([truth((0, 0, 10, 20))])
    wrong, right = [50.1, 50.1, 9.7, 9.7], [0, 0, 10.0, 10.0000001]
    rows = [{"image_id": 1, "category_id": 1, "bbox": b, "score": s} for b, s in ((wrong, low), (right, high))]
    results = read_results(write(tmp_path, rows), dataset)
    assert results_list(dataset, results) == rows
    assert evaluate(dataset, results).AP50 == pytest.approx(1)
    assert evaluate(dataset, list(results)).AP50 == pytest.approx(0.5)  # the wrong one, which is equal now, comes first
    just_under = [{**rows[1], "bbox": [0, 0, 10, 9.9999999]}]
    results = read_results(write(tmp_path, just_under), dataset)
    assert evaluate(dataset, results).AP50 == 0
    assert evaluate(dataset, list(results)).AP50 == pytest.approx(1)
    assert average_precisions(match(dataset, results), np.ones((1, 1), int))[0, 0, 0] == 0


def test_no_results_at_all(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, []), DATA)
    assert [len(one) for one in results] == [0, 0, 0]
    assert results.notes == ("3 of 3 photos have no results and count as empty",)
    assert evaluate(DATA, results).detections == 0
    assert len(read_results(write(tmp_path, []), dataset_of([]))) == 0


def test_images_named_by_text(tmp_path: Path) -> None:
    """As Ultralytics' predictions.json has them where file names are no numbers."""
    results = read_results(write(tmp_path, [{**ROW, "image_id": "1"}, {**ROW, "image_id": "2.jpg"}]), DATA)
    assert [len(one) for one in results] == [0, 1, 1]


def test_a_written_list_is_read_as_it_was(tmp_path: Path) -> None:
    for seed in range(60):
        dataset, predictions, max_det = random_case(seed)
        results = read_results(write(tmp_path, results_list(dataset, predictions)), dataset)
        assert list(results) == predictions
        want = evaluate(dataset, predictions, max_det=max_det)
        assert evaluate(dataset, results, max_det=max_det) == want
        assert evaluate(dataset, results, "pycocotools", max_det).AP == pytest.approx(want.AP, abs=1e-9)


def by_pycocotools(labels: Path, stored: Path) -> list[float]:
    """What a user gets who hands both files to pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(labels))
        run = COCOeval(reference, reference.loadRes(str(stored)), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    return [float(value) for value in run.stats]


def test_published_figures_from_the_files_alone(shared_data: Path) -> None:
    """COCO's example: what pycocotools gives for these two files, to 1e-9, and what COCO published."""
    folder = shared_data / "coco-eval-ref"
    labels, stored = folder / "instances_val2014_100.json", folder / "instances_val2014_fakebbox100_results.json"
    dataset = coco.read(labels, need_photos=False)
    results = read_results(stored, dataset)
    result = evaluate(dataset, results)
    assert list(result.figures().values()) == pytest.approx(by_pycocotools(labels, stored), abs=1e-9, rel=0)
    printed = (folder / "val2014_fake_eval_res.txt").read_text().split("type=bbox")[1].split("type=")[0]
    published = [float(line.rpartition("=")[2]) for line in printed.splitlines() if line.startswith(" Average")]
    assert [round(value, 3) for value in result.figures().values()] == published
    assert (result.detections, result.beyond_max_det, result.images) == (734, 0, 100)
    matched = average_precisions(match(dataset, results), np.ones((100, 1), int))[..., 0].mean(axis=0)
    assert matched.tolist() == pytest.approx([c.AP for c in result.per_class], abs=1e-9)


def test_cocos_ignore_case(shared_data: Path, tmp_path: Path) -> None:
    """A crowd among 13 people and 63 detections, whose own `area` and `id` do not matter."""
    folder = shared_data / "coco-eval-ref" / "misc"
    tree = json.loads((folder / "gt_ignore_test.json").read_text())
    for row in (*tree["images"], *tree["annotations"]):  # its ids are text
        row |= {key: int(row[key]) for key in ("id", "image_id") if key in row}
    labels, stored = write(tmp_path, tree, "labels.json"), folder / "dt_ignore_test.json"
    dataset = coco.read(labels, need_photos=False)
    result = evaluate(dataset, read_results(stored, dataset))
    assert list(result.figures().values()) == pytest.approx(by_pycocotools(labels, stored), abs=1e-9, rel=0)
    assert (result.crowd_boxes, result.boxes, result.detections) == (1, 14, 63)
    assert 0.5 < result.AP < 1


def test_labels_that_were_mended_are_not_measured_by_the_files_numbers() -> None:
    """A sample whose boxes were changed after reading is measured as it is now."""
    dataset = dataset_of([truth((0, 0, 10, 10))])
    sample = replace(dataset.samples[0], boxes_xywh=np.array([[0.0, 0, 10, 10]]))
    assert truth_columns(replace(dataset, samples=(sample,))).boxes_xywh.tolist() == [[0, 0, 10, 10]]
    moved = replace(sample, truth=truth((50, 0, 60, 10)))
    assert truth_columns(replace(dataset, samples=(moved,))).boxes_xywh.tolist() == [[50, 0, 10, 10]]
    fine = replace(sample, boxes_xywh=np.array([[0.0, 0, 10, 10 + 1e-9]]))
    assert truth_columns(replace(dataset, samples=(fine,))).areas_px.tolist() == [10 * (10 + 1e-9)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ROW, {**ROW, "image_id": 8}], "results for 1 image that the data do not have (first in results[1])"),
        ([{**ROW, "image_id": n} for n in range(10, 99)], "results for 89 images that the data do not have"),
        (
            [{**ROW, "image_id": n} for n in range(10, 99)],
            "image_id 10, 11, 12, 13, 14 and 84 more; expected the",
        ),
        ([{**ROW, "image_id": "x.jpg"}], "image_id 'x.jpg'; expected the image ids of toy: 9, 4, 7"),
        ([ROW, {**ROW, "category_id": 7}], "of a category that the data do not have (first in results[1]); found"),
        ([ROW, {**ROW, "category_id": 7}], "found category_id 7; expected 1 (class 0), 2 (class 1)"),
        (
            [{**ROW, "category_id": n} for n in (1, 0)],
            "each id is one too low, as if classes were counted from 0",
        ),
        ([{**ROW, "category_id": n} for n in (2, 3)], "each id is one too high, as if classes were counted from 1"),
        ([ROW, {**ROW, "score": 1.5}, {**ROW, "score": 87}], "results[1]: the score lies outside 0 to 1 (and 1 more)"),
        ([{**ROW, "score": -0.1}], "results[0]: the score lies outside 0 to 1; found -0.1; expected 0 to 1"),
        ([{**ROW, "score": float("nan")}], "results[0]: the score is not finite; found nan"),
        ([{**ROW, "score": float("inf")}], "results[0]: the score is not finite; found inf"),
        ([{**ROW, "score": 10**400}], "results[0]: the score is not finite"),
        (
            [ROW, {**ROW, "bbox": [0, float("nan"), 1, 1]}],
            "results[1]: the box is not finite; found [0.0, nan,",
        ),
        ([{**ROW, "bbox": [0, 0, 10**400, 1]}], "results[0]: the box is not finite"),
        ([{**ROW, "bbox": [5, 5, -1, 3]}], "results[0]: the box has a negative size; found [5.0, 5.0, -1.0, 3.0]"),
        ([{**ROW, "bbox": [5, 5, 1]}], "results[0]: bbox is wrong; found [5, 5, 1]; expected [x, y, width, height]"),
        ([{**ROW, "bbox": "5511"}], "results[0]: bbox is wrong; found '5511'"),
        ([{**ROW, "bbox": [5, 5, True, 1]}], "results[0]: bbox is wrong"),
        ([{**ROW, "bbox": None}], "results[0]: bbox is wrong; found None"),
        ([{**ROW, "score": "0.5"}], "results[0]: score is wrong; found '0.5'; expected a number from 0 to 1"),
        ([{**ROW, "score": True}], "results[0]: score is wrong; found True"),
        ([{**ROW, "category_id": "cat"}], "results[0]: category_id is wrong; found 'cat'; expected a whole number"),
        ([{**ROW, "image_id": 4.0}], "results[0]: image_id is wrong; found 4.0; expected a whole number"),
        ([ROW, {k: v for k, v in ROW.items() if k != "score"}], "results[1] has no score; found image_id, category_id"),
        ([ROW, 5], "results[1] is no result; found 5"),
        (["abcd"], "results[0] is no result; found 'abcd'"),
        (
            {"images": [], "annotations": [], "categories": []},
            "this is a label file, not results; found an object",
        ),
        ({"AP": 0.5}, "these are no results; found {'AP': 0.5}; expected a list of"),
        (17, "these are no results; found 17"),
        (b"", ": the file is empty"),
        (b" \n ", ": the file is empty"),
        (b"hello", ":1: not valid JSON: Expecting value (column 1)"),
        (b'[\n{"image_id": 4},\n{"image', ":3: the JSON ends too early, a part is missing"),
        (json.dumps([ROW, ROW]).encode()[:-1], ":1: the JSON ends too early"),
        (json.dumps([ROW, ROW]).encode()[:-30], "the JSON ends too early"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", ": not valid JSON"),
        (b"[" * 100_000, ": not valid JSON"),
        (b"[{" + b'"a": 1' + b"9" * 5000 + b"}]", ": not valid JSON"),
    ],
)
def test_bad_results_are_one_clear_line(tmp_path: Path, rows: Any, words: str) -> None:
    assert words in refusal(write(tmp_path, rows))


def test_ids_that_are_class_numbers_where_the_datas_have_gaps(tmp_path: Path) -> None:
    gaps = replace(DATA, class_names=("a", "b", "c"), category_ids=(1, 3, 90))
    for first in (0, 1):
        rows = [{**ROW, "category_id": first + k} for k in range(3)]
        words = f"they look like class numbers from {first} on; write the label file's category ids instead"
        assert words in refusal(write(tmp_path, rows), gaps)


def test_no_such_file_and_a_folder_without_results(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.json")
    assert "no results in this folder; expected detections.jsonl" in refusal(tmp_path)


KEYS = [*ROW, "kind", "name", "detections", "images", "annotations"]


@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
        max_leaves=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_file_holds_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = write(tmp_path_factory.mktemp("any"), content)
    try:
        assert isinstance(read_results(path, DATA), Results)
    except DataError as error:
        assert "\n" not in str(error).removeprefix(str(path))


NAMES = ("a/x.jpg", "b/x.jpg", "b/y.jpg")
NAMED = replace(
    DATA,
    class_names=("cat", "dog"),
    samples=tuple(
        replace(s, name=name, image_path=Path("/photos") / name) for s, name in zip(DATA, NAMES, strict=True)
    ),
)
RUN = {"version": 2, "kind": "run", "model": {"class_names": ["dog", "cat"]}, "settings": {"conf": 0.001}}


def test_what_detect_writes(tmp_path: Path) -> None:
    """Classes go by name whatever the model's label is, photos by path or file name; the rest is no result."""
    box = [10.5, 20.125, 40.75, 60.001]
    path = jsonl(
        tmp_path,
        RUN,
        photo("holiday/b/x.jpg", ("dog", 0.5, box), ("cat", 0.25, [0, 0, 5, 5])),
        {"version": 2, "kind": "error", "name": "holiday/a/x.jpg", "error": "empty"},
        photo("elsewhere\\y.jpg", ("cat", 1, box)),
    )
    results = read_results(path, NAMED)
    assert list(results) == [
        found(),
        found((*box, 1, 0.5), (0, 0, 5, 5, 0, 0.25)),
        found((*box, 0, 1)),
    ]
    assert results_list(NAMED, results)[0]["bbox"] == [10.5, 20.125, 40.75 - 10.5, 60.001 - 20.125]
    assert results.notes[0] == "1 photos could not be read when the results were made"
    assert list(read_results(tmp_path, NAMED)) == list(results)  # the folder of the run
    document = {"version": 2, "model": RUN["model"], "images": [photo("b/y.jpg", ("cat", 1, box))]}
    assert read_results(write(tmp_path, document), NAMED)[2] == results[2]
    indented = write(tmp_path, json.dumps(document, indent=2).encode())
    assert read_results(indented, NAMED)[2] == results[2]


def test_a_run_that_left_out_weak_boxes_is_told_of(tmp_path: Path) -> None:
    path = jsonl(tmp_path, RUN | {"settings": {"conf": 0.25}}, photo("b/y.jpg"))
    assert "only boxes of confidence 0.25 and more" in read_results(path, NAMED).notes[0]


def test_records_equal_the_list(tmp_path: Path) -> None:
    """The same boxes by both roads; their corners are whole numbers, so both forms hold them exactly."""
    dataset = replace(NAMED, samples=tuple(replace(s, truth=truth((0, 0, 50, 50))) for s in NAMED))
    boxes = [(0, 0, 50, 40), (5, 0, 50, 50), (100, 100, 150, 150)]
    predictions = [found(*((*box, 0, 0.9 - k / 10) for k, box in enumerate(boxes)))] * 3
    records = [
        photo(s.name, *(("cat", float(p.scores[k]), list(boxes[k])) for k in range(3)))
        for s, p in zip(dataset, predictions, strict=True)
    ]
    assert evaluate(dataset, read_results(jsonl(tmp_path, *records), dataset)) == evaluate(dataset, predictions)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (
            [RUN, photo("z.jpg"), photo("b/w.jpg")],
            "2: results for 2 photos that the data do not have; found z.jpg",
        ),
        ([photo("x.jpg")], ":1: x.jpg: which photo is it? 2 of the data have this file name"),
        ([photo("b/y.jpg"), photo("y.jpg")], ":2: y.jpg: results for this photo come twice; found b/y.jpg"),
        (
            [photo("y.jpg", ("Dog", 0.5, [0, 0, 1, 1]))],
            ":1: the class names do not fit: they differ in upper",
        ),
        ([photo("y.jpg", ("cow", 0.5, [0, 0, 1, 1]))], "first in y.jpg, detections[0]); found cow; expected cat, dog"),
        ([photo("y.jpg", width=800)], ":1: y.jpg: the photo has another size; found 800x300 px; expected 400x300 px"),
        ([photo("y.jpg", ("cat", 1.5, [0, 0, 1, 1]))], ":1: y.jpg, detections[0]: the score lies outside 0 to 1"),
        ([RUN, photo("b/x.jpg", ("cat", 1, [0, 0, 1, 1])), photo("y.jpg", ("cat", 1, [5, 0, 1, 1]))], ":3: y.jpg, det"),
        ([photo("y.jpg", ("cat", None, [0, 0, 1, 1]))], ":1: y.jpg, detections[0] is wrong"),
        ([photo("y.jpg", ("cat", 0.5, [0, 0, 1]))], "expected class, score (0 to 1) and box_xyxy (4 pixel values)"),
        ([photo("y.jpg", (5, 0.5, [0, 0, 1, 1]))], ":1: y.jpg, detections[0] is wrong"),
        ([photo("y.jpg", kind="frame", frame=0)], ":1: results of a video; labels belong to photos; found y.jpg"),
        ([photo("y.jpg"), {"kind": "what"}], ":2: not a record of `detkit detect`"),
        ([photo("y.jpg"), 5], ":2: not a record of `detkit detect`; found 5"),
        ([photo("y.jpg", detections=None)], ":1: a photo's record is wrong"),
    ],
)
def test_bad_records_are_one_clear_line(tmp_path: Path, records: list[Any], words: str) -> None:
    assert words in refusal(jsonl(tmp_path, *records), NAMED)


def test_a_torn_last_line(tmp_path: Path) -> None:
    whole = jsonl(tmp_path, RUN, photo("y.jpg")).read_bytes()
    assert ":2: the JSON ends too early" in refusal(write(tmp_path, whole[:-9]), NAMED)


def test_boxes_in_another_form_or_unit_are_told_of(tmp_path: Path) -> None:
    corners = [{**ROW, "bbox": [200, 150, 390, 290]}] * 10
    assert "100% of the boxes reach beyond their photo" in read_results(write(tmp_path, corners), DATA).notes[-1]
    fractions = [{**ROW, "bbox": [0.2, 0.3, 0.5, 0.6]}] * 10
    assert "in fractions of the photo" in read_results(write(tmp_path, fractions), DATA).notes[-1]


def test_points(tmp_path: Path) -> None:
    dataset = replace(NAMED, point_names=("left", "right"))
    rows = [{**ROW, "keypoints": [1.1, 2.2, 2, 3.3, 4.4, 1]}]
    results = read_results(write(tmp_path, rows), dataset)
    assert results.points_xyv is not None
    assert results.points_xyv.tolist() == [[[1.1, 2.2, 2], [3.3, 4.4, 1]]]
    assert results[1].points_xyv.shape == (1, 2, 3)
    assert read_results(write(tmp_path, rows), DATA)[1].points_xyv is None
    without_box = [{k: v for k, v in rows[0].items() if k != "bbox"}]
    stored = read_results(write(tmp_path, without_box), dataset)
    assert results_list(dataset, stored)[0]["bbox"] == [
        1.1,
        2.2,
        3.3 - 1.1,
        4.4 - 2.2,
    ]
    assert "has no bbox" in refusal(write(tmp_path, without_box))
    assert "results[0]: keypoints is wrong" in refusal(write(tmp_path, [{**ROW, "keypoints": [1, 2, 3]}]), dataset)
    assert "results[1]: keypoints is wrong; found None" in refusal(write(tmp_path, [*rows, ROW]), dataset)
    assert "a point is not finite" in refusal(write(tmp_path, [{**ROW, "keypoints": [float("nan")] * 6}]), dataset)
    record = photo("y.jpg", ("cat", 0.5, [0, 0, 9, 9]))
    record["detections"][0]["points"] = {"right": [3, 4, 0.5], "left": [1, 2, 0.25]}
    assert read_results(jsonl(tmp_path, record), dataset)[2].points_xyv.tolist() == [[[1, 2, 0.25], [3, 4, 0.5]]]
    record["detections"][0]["points"] = {"right": [3, 4, 0.5]}
    assert "y.jpg, detections[0]: the points do not fit" in refusal(jsonl(tmp_path, record), dataset)
