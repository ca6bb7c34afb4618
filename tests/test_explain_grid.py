"""`explain grid`: output rows to cells and anchors, who suppressed whom, the picture, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkit.boxes import iou_matrix
from detkit.cli import main
from detkit.engines import Outputs
from detkit.errors import UsageError, WeightsError
from detkit.images import read_image, write_image
from detkit.infer.explain_grid import FINEST_STRIDE, check_explainable, explain_grid, grid_levels, slot_of
from detkit.infer.explain_grid_picture import draw_grid
from detkit.infer.panels import side_by_side, wrapped
from detkit.infer.predictor import Predictor
from detkit.nms import nms, suppressors
from detkit.weights import ModelCard

ANCHORS = (((10.0, 20.0), (16.0, 8.0)), ((32.0, 24.0), (24.0, 40.0)), ((64.0, 64.0), (90.0, 50.0)))
CARD = ModelCard(
    "yolo", {}, ("red", "blue"), (64, 96), anchors_wh_px=ANCHORS, thresholds={"conf": 0.5, "iou": 0.5}, pad_value=0
)
ROWS = 2 * (8 * 12 + 4 * 6 + 2 * 3)  # of a canvas 64 high and 96 wide


class Scripted:
    """An engine that says the same of every canvas."""

    name, parallel = "scripted", 1

    def __init__(self, boxes: dict[int, tuple[list[float], list[float]]], card: ModelCard = CARD) -> None:
        self.card = card
        self.boxes_xyxy, self.scores = np.zeros((1, ROWS, 4), np.float32), np.zeros((1, ROWS, 2), np.float32)
        for row, (box, scores) in boxes.items():
            self.boxes_xyxy[0, row], self.scores[0, row] = box, scores

    def run(self, batch_rgb: np.ndarray) -> Outputs:
        return Outputs(self.boxes_xyxy, self.scores)


def test_every_output_row_has_its_own_slot_in_the_order_of_the_network() -> None:
    levels = grid_levels(CARD, (64, 96), ROWS, None)
    assert [(level.stride, level.rows, level.columns) for level in levels] == [(8, 8, 12), (16, 4, 6), (32, 2, 3)]
    slots = [slot_of(levels, row) for row in range(ROWS)]
    wanted = [
        (stride, row, column, anchor)
        for stride in (8, 16, 32)
        for anchor in range(2)
        for row in range(64 // stride)
        for column in range(96 // stride)
    ]
    assert [(slot.stride, slot.row, slot.column, slot.anchor) for slot in slots] == wanted
    one = slots[2 * 96 + 24 + 6 + 2]  # second level, second anchor, row 1, column 2
    assert (one.cell_xyxy, one.anchor_wh_px) == ((32, 16, 48, 32), (24.0, 40.0))
    assert one.anchor_xyxy == (28, 4, 52, 44)
    with pytest.raises(IndexError):
        slot_of(levels, ROWS)


def test_the_networks_own_decoding_has_this_order() -> None:
    """A network whose every output is 0 answers with each anchor on the middle of its cell, but twice half as large."""
    torch = pytest.importorskip("torch")
    from detkit.models.backbones import STRIDES
    from detkit.models.yolo import Raw, Yolo, YoloSettings

    assert STRIDES[0] == FINEST_STRIDE
    model = Yolo(YoloSettings("lenet5", width=8, anchors_per_scale=2, pretrained=False), ("red", "blue"), ANCHORS)
    raw = Raw(tuple(torch.zeros(1, 2, 64 // stride, 96 // stride, 7) for stride in STRIDES))
    boxes_xyxy = model.decode(raw)[0][0].numpy()
    levels = grid_levels(CARD, (64, 96), len(boxes_xyxy), None)
    np.testing.assert_allclose(boxes_xyxy, [slot_of(levels, row).anchor_xyxy for row in range(ROWS)], atol=1e-4)


@st.composite
def crowded(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, float]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 40))
    corner = rng.integers(0, 40, (count, 2))
    boxes_xyxy = np.hstack([corner, corner + rng.integers(0, 30, (count, 2))]).astype(np.float32)
    scores = rng.integers(0, draw(st.sampled_from([1, 3, 1000])), count) / 1000
    labels = None if draw(st.booleans()) else rng.integers(0, 2, count)
    return boxes_xyxy, scores, labels, draw(st.sampled_from([0.0, 0.3, 0.45, 0.6, 1.0]))


@given(crowded())
def test_who_suppressed_whom_explains_exactly_the_boxes_that_go(case: Any) -> None:
    boxes_xyxy, scores, labels, limit = case
    kept = nms(boxes_xyxy, scores, labels, limit)
    by, overlaps = suppressors(boxes_xyxy, scores, labels, kept, limit)
    assert np.flatnonzero(by < 0).tolist() == sorted(kept.tolist())
    groups, ious = np.zeros(len(scores)) if labels is None else labels, iou_matrix(boxes_xyxy, boxes_xyxy)
    better = (scores[None] > scores[:, None]) | (
        (scores[None] == scores[:, None]) & (np.arange(len(scores)) < np.arange(len(scores))[:, None])
    )
    stays = by < 0
    for row, other in enumerate(by.tolist()):  # greedily: the best one that stays, of its class, and overlaps too much
        rivals = np.flatnonzero(stays & better[row] & (groups == groups[row]) & (ious[row] > limit + 1e-6))
        if other < 0:
            assert not len(rivals)
            assert overlaps[row] == 0
        else:
            assert overlaps[row] == pytest.approx(ious[row, other])
            assert overlaps[row] > limit - 1e-6
            assert better[row, other]
            assert not len(rivals) or other == min(rivals, key=lambda rival: (-scores[rival], rival))


TWO_CARS = {
    2 * 96 + 5: ([0.0, 0, 40, 40], [0.9, 0.1]),  # stride 16, anchor 0, row 0, column 5
    3: ([2.0, 0, 42, 40], [0.7, 0.2]),  # IoU 38 / 42 with the first
    7: ([60.0, 0, 90, 30], [0.1, 0.8]),
    9: ([0.0, 0, 40, 40], [0.1, 0.6]),  # another class in the first one's place
    11: ([100.0, 70, 120, 90], [0.95, 0.0]),  # wholly outside the photo
    12: ([60.0, 0, 90, 30], [0.4, 0.3]),  # below the threshold
}


def test_a_photo_by_hand() -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    predictor = Predictor(Scripted(TWO_CARS))
    explained = explain_grid(predictor, image)
    assert explained.before.scores.tolist() == pytest.approx([0.95, 0.9, 0.8, 0.7, 0.6])
    assert explained.suppressed_by.tolist() == [-1, -1, -1, 1, -1]
    assert explained.objects.tolist() == [1, 2, 4]
    assert explained.overlaps[3] == pytest.approx(38 / 42)
    assert explained.reason(3) == "IoU 0.905 > 0.5 with a better box of its class: red 0.90"
    assert explained.reason(1) == ""
    slot = explained.slots[1]
    assert (slot.output_row, slot.stride, slot.row, slot.column, slot.anchor) == (197, 16, 0, 5, 0)
    found = predictor.predict(image)
    np.testing.assert_array_equal(found.boxes_xyxy, explained.on_photo_xyxy[explained.objects])
    document = json.loads(json.dumps(explained.to_dict()))
    assert [len(box["suppressed"]) for box in document["objects"]] == [1, 0, 0]
    assert (document["before"], document["after"], [box["score"] for box in document["left_out"]]) == (
        5,
        3,
        pytest.approx([0.95]),
    )
    agnostic = explain_grid(Predictor(Scripted(TWO_CARS), nms="agnostic"), image)
    assert agnostic.suppressed_by.tolist() == [-1, -1, -1, 1, 1]
    assert "of any class: red 0.90" in agnostic.reason(4)


@pytest.mark.parametrize("size_hw", [(64, 96), (200, 31), (31, 200), (1, 1)])
@pytest.mark.parametrize("boxes", [TWO_CARS, {}])
def test_the_picture_of_any_photo(size_hw: tuple[int, int], boxes: dict[int, Any]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    before = image.copy()
    explained = explain_grid(Predictor(Scripted(boxes)), image)
    picture = draw_grid(explained, image, "letterbox", 0)
    assert picture.dtype == np.uint8
    assert min(picture.shape[:2]) > 60
    np.testing.assert_array_equal(image, before)


def test_the_picture_fills_the_cell_that_answered() -> None:
    image = np.full((64, 96, 3), 128, np.uint8)
    only = {2 * 96 + 2 * 12 + 4: ([8.0, 8, 88, 56], [0.9, 0])}  # stride 16, anchor 1, row 0, column 4
    picture = draw_grid(explain_grid(Predictor(Scripted(only)), image), image, "letterbox", 0)
    zoom, top, left = 9, 42, 14  # of the first panel

    def redness(x: int, y: int) -> int:
        red, green, _ = picture[top + y * zoom, left + x * zoom].tolist()
        return int(red - green)

    assert redness(72, 12) > 100  # within the cell, which goes from (64, 0) to (80, 16)
    assert redness(70, 20) == redness(50, 12) == redness(30, 30) == 0
    assert max(redness(60, y) for y in range(17, 27)) > 100 > min(redness(60, y) for y in range(17, 27))  # its anchor


def test_what_cannot_be_explained_is_refused() -> None:
    with pytest.raises(
        WeightsError, match=r"m\.onnx: has no grid of anchors to explain; found a model for 'landmarks'"
    ):
        check_explainable(ModelCard("landmarks", {}, ("a",), (64, 64)), Path("m.onnx"))
    with pytest.raises(WeightsError, match="without anchors; expected a 'yolo' model"):
        check_explainable(ModelCard("yolo", {}, ("a",), (64, 64)), None)
    with pytest.raises(WeightsError, match="found 999 boxes for 252 slots of strides 8, 16, 32"):
        grid_levels(CARD, (64, 96), 999, None)
    with pytest.raises(UsageError, match="nms"):
        explain_grid(Predictor(Scripted({}), nms="soft"), np.zeros((64, 96, 3), np.uint8))


def test_captions_are_broken_and_notes_stand_in_columns() -> None:
    assert wrapped("one two three", 10_000) == ["one two three"]
    assert len(wrapped("one two three", 1)) == 3
    image = np.zeros((40, 600, 3), np.uint8)
    plain = side_by_side([("a", image), ("b", image)])
    assert plain.shape[1] == 2 * 600 + 3 * 14
    noted = side_by_side([("a", image), ("b", image)], [((255, 0, 0), "x")] * 4)
    assert 20 < noted.shape[0] - plain.shape[0] < 60  # four short notes share a line


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs `detkit explain grid ARGS` in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detkit", "explain", "grid", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


PHOTO = Path(__file__).parent / "data" / "photos" / "chelsea.jpg"


def test_the_command_with_the_default_model(shell: Any) -> None:
    code, out, err = shell(PHOTO, "--json")
    assert code == 0, err
    document = json.loads(out)
    (cat,) = document["objects"]
    assert cat["class"] == "cat"
    assert cat["anchor_wh_px"] == document["levels"][cat["level"]]["anchors_wh_px"][cat["anchor"]]
    x1, y1, x2, y2 = cat["cell_on_canvas"]
    left, top, right, bottom = cat["box_on_canvas"]
    assert left < (x1 + x2) / 2 < right
    assert top < (y1 + y2) / 2 < bottom
    assert all(box["iou"] > document["iou"] for box in cat["suppressed"])
    assert document["before"] == 1 + len(cat["suppressed"])
    assert document["picture"] == "runs/explain/chelsea-grid.png"
    assert read_image(document["picture"]).shape[1] > 1000
    code, out, err = shell(PHOTO, "-o", "other.png", "--conf", "0.99")
    assert (code, len(out.splitlines())) == (0, 1)
    assert "0 boxes before suppression, 0 suppressed, 0 objects" in err
    assert f"the highest score is {cat['score']:.2f}, of a cat" in err
    assert Path("other.png").is_file()


def test_a_large_photo_is_explained_as_detect_sees_it(shell: Any, tmp_path: Path) -> None:
    image = read_image(PHOTO)
    write_image(tmp_path / "large.jpg", np.kron(image, np.ones((5, 5, 1), np.uint8)))
    code, out, err = shell("large.jpg", "--json")
    assert code == 0, err
    (found,) = Predictor().predict_files([tmp_path / "large.jpg"])
    document = json.loads(out)
    assert document["photo"] == [image.shape[1] * 5, image.shape[0] * 5]
    np.testing.assert_array_equal([box["box"] for box in document["objects"]], found.boxes_xyxy)


def test_what_the_command_refuses(shell: Any, tmp_path: Path) -> None:
    write_image(tmp_path / "p.png", np.zeros((40, 40, 3), np.uint8))
    for args, code, said in (
        (("p.png", "-w", "face-landmarks"), 4, "has no grid of anchors to explain; found a model for 'landmarks'"),
        (("nothing.png",), 3, "nothing.png"),
        (("p.png", "-o", "p.png"), 2, "--out would overwrite the photo"),
        (("p.png", "-o", "p.pdf"), 2, "--out; found p.pdf; expected a file in .png"),
        (("p.png", "-o", "nowhere/p.png"), 2, "--out: no such folder"),
        (("p.png", "--conf", "7"), 2, "conf of a prediction; found 7"),
        (("p.png", "--size", "33"), 2, "size; found 33"),
    ):
        left, out, err = shell(*args)
        assert (left, out) == (code, ""), args
        assert said in err.splitlines()[-1]
