"""Points in use: on boxes, behind a detector, on a whole photo, measured; from Python and from the shell."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx comes with the train extra")
from fake_landmarks import VISIBLE, write_landmark_model
from fake_model import card_with, write_fake_model
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.cli import main
from detkit.data.dataset import Sample
from detkit.detections import Detections
from detkit.draw import draw
from detkit.errors import UsageError, WeightsError
from detkit.evaluate.keypoints import KEYPOINT_FIGURES
from detkit.images import read_image, write_image
from detkit.infer import landmarks as module
from detkit.infer.landmarks import LandmarkPredictor
from detkit.infer.predictor import Predictor


def photo(*dots: tuple[float, float, int], size_hw: tuple[int, int] = (240, 320)) -> np.ndarray:
    """A black photo with 8x8 squares around (x, y) in a channel."""
    image = np.zeros((*size_hw, 3), np.uint8)
    for x, y, channel in dots:
        image[round(y) - 4 : round(y) + 4, round(x) - 4 : round(x) + 4, channel] = 255
    return image


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_landmark_model(tmp_path_factory.mktemp("points") / "points.onnx")


TWO_FACES = photo((60, 80, 0), (90, 84, 2), (200, 150, 0), (260, 140, 2))
BOXES = np.float32([[45, 60, 105, 110], [180, 100, 290, 200]])
WANTED = np.float32([[[60, 80], [90, 84]], [[200, 150], [260, 140]]])


def test_points_lie_on_the_photo_whatever_the_box(model: Path) -> None:
    points = LandmarkPredictor(model).points(TWO_FACES, BOXES)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points[..., :2], WANTED, atol=0.4)
    np.testing.assert_allclose(points[..., 2], VISIBLE)
    over_the_edge = LandmarkPredictor(model).points(photo((4, 4, 0), (60, 6, 2)), [[-30, -20, 80, 30]])
    np.testing.assert_allclose(over_the_edge[0, :, :2], [[4, 4], [60, 6]], atol=0.4)


def test_no_boxes_no_points(model: Path) -> None:
    predictor = LandmarkPredictor(model)
    assert predictor.points(TWO_FACES, np.zeros((0, 4))).shape == (0, 2, 3)
    assert list(predictor.stream([])) == []
    (none,) = predictor.add_points([TWO_FACES], [Detections.empty((240, 320))], ("red",))
    assert none.points_xyv.shape == (0, 2, 3)


def test_many_photos_share_the_runs_of_the_network(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 3)
    predictor = LandmarkPredictor(model)
    counts = [1, 0, 2, 2, 0, 2, 1, 2, 0]
    found = list(predictor.stream((TWO_FACES, BOXES[:count]) for count in counts))
    assert [len(points) for points in found] == counts
    for points in found:
        np.testing.assert_allclose(points[..., :2], WANTED[: len(points)], atol=0.4)


def test_labelled_boxes_keep_their_place(model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", TWO_FACES)
    truth = Detections((240, 320), BOXES, [0, 0], points_xyv=np.zeros((2, 2, 3)), crowd=[False, True])
    samples = [Sample("a.png", tmp_path / "a.png", truth, 1)] * 2
    found = list(LandmarkPredictor(model).stream_truth(samples))
    assert len(found) == 2
    np.testing.assert_array_equal(found[0].boxes_xyxy, BOXES)
    np.testing.assert_allclose(found[0].points_xyv[..., :2], WANTED, atol=0.4)
    np.testing.assert_allclose(found[0].scores, VISIBLE)


def test_only_boxes_of_known_classes_get_points(model: Path) -> None:
    detections = Detections((240, 320), BOXES, [0, 1], [0.9, 0.8])
    (found,) = LandmarkPredictor(model).add_points([TWO_FACES], [detections], ("blue", "red"))
    assert (found.points_xyv[0] == 0).all()
    np.testing.assert_allclose(found.points_xyv[1, :, :2], WANTED[1], atol=0.4)
    np.testing.assert_array_equal(found.scores, detections.scores)


def test_the_detector_and_the_points_in_one_call(model: Path, tmp_path: Path) -> None:
    detector = write_fake_model(tmp_path / "boxes.onnx", card_with(fit="stretch"))
    image = photo((6, 8, 0), (26, 20, 2), size_hw=(64, 64))
    found = Predictor(detector, conf=0.01, landmarks=model).predict(image)
    red = found.labels == 0
    assert red.sum() == 1
    np.testing.assert_allclose(found.points_xyv[red][0, :, :2], [[6, 8], [26, 20]], atol=0.4)
    assert (found.points_xyv[~red] == 0).all()
    assert len(Predictor(detector, landmarks=model).predict(np.zeros((30, 50, 3), np.uint8))) == 0


def test_a_model_of_points_alone_takes_the_photo_as_its_window(model: Path) -> None:
    image = photo((60, 80, 0), (250, 180, 2))
    (found,) = [Predictor(model).predict(image)]
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 320, 240]], atol=1e-3)
    np.testing.assert_allclose(found.points_xyv[0, :, :2], [[60, 80], [250, 180]], atol=1.5)


def test_what_does_not_fit_is_refused(model: Path, tmp_path: Path) -> None:
    detector = write_fake_model(tmp_path / "boxes.onnx")
    with pytest.raises(WeightsError, match="is no model of points; found task 'yolo'"):
        LandmarkPredictor(detector)
    other = write_landmark_model(tmp_path / "cats.onnx", class_names=("cat",))
    with pytest.raises(UsageError, match="share no class; found points of cat; boxes of red, blue"):
        Predictor(detector, landmarks=other)
    three = write_landmark_model(tmp_path / "three.onnx", point_names=("a", "b", "c"))
    with pytest.raises(WeightsError, match="the network's outputs"):
        LandmarkPredictor(three)


def test_edges_are_drawn_between_points_that_show() -> None:
    points = np.float32([[[50, 50, 1], [150, 50, 1], [150, 150, 0]]])
    detections = Detections((200, 200), [[10, 10, 190, 190]], [0], [0.5], points)
    image = np.full((200, 200, 3), 128, np.uint8)
    plain, edged = draw(image, detections, ["x"]), draw(image, detections, ["x"], [(0, 1), (1, 2)])
    changed = (plain != edged).any(axis=2)
    assert changed[50, 60:140].all()
    assert not changed[60:].any()
    unsure = draw(image, Detections((200, 200), [[10, 10, 190, 190]], [0], [0.5], points * [1, 1, 0.4]), ["x"])
    assert unsure.astype(int).sum() < plain.astype(int).sum()  # less of the point is coloured


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs `detkit ARGS` in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detkit", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_detect_with_landmarks(shell: Any, tmp_path: Path, model: Path) -> None:
    detector = write_fake_model(tmp_path / "boxes.onnx", card_with(fit="stretch"))
    image = np.zeros((64, 64, 3), np.uint8)
    image[2:26, 2:30, 0] = 255
    write_image(tmp_path / "p.png", image)
    code, out, err = shell("detect", "p.png", "-w", detector, "--landmarks", model, "--json", "--out", "pictures")
    assert code == 0, err
    document = json.loads(out)
    assert document["model"]["landmarks"] == "points.onnx"
    (one,) = document["images"][0]["detections"]
    x, y, visible = one["points"]["left_eye"]
    assert (x, y, visible) == (pytest.approx(16, abs=0.3), pytest.approx(14, abs=0.3), VISIBLE)
    assert (tmp_path / "pictures/p.png").is_file()
    code, out, _ = shell("detect", "p.png", "-w", detector, "--json")
    assert "points" not in json.loads(out)["images"][0]["detections"][0]
    code, out, err = shell("detect", "p.png", "-w", detector, "--landmarks", "nothing.onnx")
    assert (code, out) == (4, "")
    assert "nothing.onnx" in err


def test_points_follow_an_object_through_a_film(shell: Any, tmp_path: Path, model: Path) -> None:
    detector = write_fake_model(tmp_path / "boxes.onnx", card_with(fit="stretch", thresholds={"conf": 0.3, "iou": 0.6}))
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        film: Any = container.add_stream("libx264", 25, {"preset": "ultrafast", "qp": "10"}, width=64, height=64)
        film.codec_context.pix_fmt = "yuv420p"
        for number in range(5):
            image = np.zeros((64, 64, 3), np.uint8)
            image[4:24, 2 + 2 * number : 22 + 2 * number, 0] = 255
            container.mux(film.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(film.encode(None))
    code, _, err = shell("detect", "film.mp4", "-w", detector, "--landmarks", model, "--jsonl", "o.jsonl", "--out", "o")
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    found = [one["detections"] for one in lines if one["kind"] == "frame"]
    assert [len(detections) for detections in found] == [1] * 5
    eyes = [detections[0]["points"]["left_eye"][:2] for detections in found]
    np.testing.assert_allclose(eyes, [[12 + 2 * number, 14] for number in range(5)], atol=0.7)
    assert (tmp_path / "o/film.mp4").is_file()


def labelled(folder: Path, shift_px: float, **category: Any) -> Path:
    """Two photos of one face each; the labels lie `shift_px` to the right of the dots."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number, (x, y) in enumerate([(60, 80), (120, 100)], start=1):
        write_image(folder / "images" / f"{number}.png", photo((x, y, 0), (x + 40, y, 2)))
        images.append({"id": number, "file_name": f"{number}.png", "width": 320, "height": 240})
        points = [x + shift_px, y, 2, x + 40 + shift_px, y, 2]
        box = [x - 20, y - 40, 80, 80]
        row = {"id": number, "image_id": number, "category_id": 1, "bbox": box, "keypoints": points}
        annotations.append(row | {"area": box[2] * box[3], "num_keypoints": 2, "iscrowd": 0})
    categories = [{"id": 1, "name": "red", "keypoints": ["left_eye", "right_eye"], **category}]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations/instances_val.json").write_text(json.dumps(tree))
    return folder


def test_eval_measures_points(shell: Any, tmp_path: Path, model: Path) -> None:
    data = labelled(tmp_path / "data", 2.4)
    code, out, err = shell("eval", data, "-w", model, "--json", "--save-predictions", "found.json")
    assert code == 0, err
    document = json.loads(out)
    assert document["NME"] == pytest.approx(2.4 / 40, abs=0.01)
    # the mean shape puts the eyes at the box's quarters: exactly on the dots
    assert document["baseline_NME"] == pytest.approx(2.4 / 40, abs=1e-5)
    assert (document["FR08"], document["boxes"], document["split"]) == (0, 2, "val")
    assert document["normaliser"] == "distance between the eyes"
    saved = json.loads((tmp_path / "found.json").read_text())
    assert [len(row["keypoints"]) for row in saved] == [6, 6]
    code, out, err = shell("eval", data, "-w", model)
    assert code == 0, err
    lines = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.strip()}
    assert float(lines["NME"]) == pytest.approx(0.06, abs=0.01)
    assert float(lines["left_eye"]) == pytest.approx(0.06, abs=0.01)
    assert "distance between the eyes" in out
    assert "2 photos" in err


def test_eval_plots_the_curve_and_names_the_worst_boxes(shell: Any, tmp_path: Path, model: Path) -> None:
    pytest.importorskip("matplotlib")
    data = labelled(tmp_path / "data", 2.4)
    code, out, err = shell("eval", data, "-w", model, "--plots", "plots", "--json")
    assert code == 0, err
    assert sorted(path.name for path in Path("plots").iterdir()) == ["ced.png", "point_errors.png", "worst_boxes.png"]
    for path in Path("plots").iterdir():
        assert read_image(path).std() > 5, path
    document = json.loads(out)
    assert [share for error, share in document["curve"] if error in (0.045, 0.075)] == [0, 1]
    assert [share for error, share in document["baseline_curve"] if error in (0.055, 0.065)] == [0, 1]
    assert sorted(box["name"] for box in document["worst"]) == ["1.png", "2.png"]
    assert document["worst"][0]["error"] >= document["worst"][1]["error"] > 0.05
    assert document["keypoints"]["sigmas"] == [0.025, 0.025]  # COCO's, by the points' names
    assert "3 plots" in err


def test_eval_gives_cocos_keypoint_figures_as_pycocotools_does(shell: Any, tmp_path: Path, model: Path) -> None:
    data = labelled(tmp_path / "data", 2.4)
    options = ("--json", "--oks-sigmas", "0.02,0.03", "--save-predictions", "found.json")
    code, out, err = shell("eval", data, "-w", model, *options)
    assert code == 0, err
    found = json.loads(out)["keypoints"]
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO(str(data / "annotations/instances_val.json"))
        run = COCOeval(labels, labels.loadRes("found.json"), "keypoints")
        run.params.kpt_oks_sigmas = np.array([0.02, 0.03])
        run.evaluate(), run.accumulate(), run.summarize()
    assert [found[name] for name in KEYPOINT_FIGURES] == pytest.approx(run.stats.tolist(), abs=1e-9, rel=0)
    assert 0 < found["AP"] < 1
    code, out, err = shell("eval", data, "-w", model, "--oks-sigmas", "0.02,0.03")
    assert float(next(line.split()[1] for line in out.splitlines() if line.startswith("AR50"))) == 1
    assert "The boxes are the labelled ones" in err


def test_spreads_in_the_labels_are_used_unasked(shell: Any, tmp_path: Path, model: Path) -> None:
    data = labelled(tmp_path / "data", 2.4, sigmas=[0.5, 0.5])
    code, out, err = shell("eval", data, "-w", model, "--json")
    assert code == 0, err
    assert json.loads(out)["keypoints"]["sigmas"] == [0.5, 0.5]
    assert json.loads(out)["keypoints"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--oks-sigmas", "0.1,0.1,0.1"), "--oks-sigmas; found 3 numbers; expected 2, or one for all"),
        (("--voc",), "--voc measures boxes; this is a model of points"),
        (("--mistakes",), "--mistakes measures boxes"),
        (("--plots", "p", "--conf", "0.5"), "--conf measures boxes"),
        (("--batch", "4"), "--batch does nothing here"),
    ],
)
def test_options_of_eval_that_points_have_nothing_for(
    shell: Any, tmp_path: Path, model: Path, options: tuple[str, ...], said: str
) -> None:
    code, out, err = shell("eval", labelled(tmp_path / "data", 0), "-w", model, *options)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]


def test_spreads_that_are_not_known_are_asked_for(shell: Any, tmp_path: Path, model: Path) -> None:
    names = {"point_names": ("left_dot", "right_dot")}
    other = write_landmark_model(tmp_path / "dots.onnx", **names)
    data = labelled(tmp_path / "data", 0, keypoints=list(names["point_names"]))
    code, out, _ = shell("eval", data, "-w", other, "--json")
    assert (code, "keypoints" in json.loads(out)) == (0, False)
    code, _, err = shell("eval", data, "-w", other, "--oks")
    assert code == 2
    assert "sigmas are needed: COCO has none for these points; found left_dot, right_dot" in err.splitlines()[-1]


def test_an_error_in_one_of_several_splits_is_the_error_told(shell: Any, tmp_path: Path, model: Path) -> None:
    data = labelled(tmp_path / "data", 0, keypoints=["nose"])
    labels = data / "annotations/instances_val.json"
    (data / "annotations/instances_train.json").write_text(labels.read_text())
    code, _, err = shell("eval", data, "-w", model)
    assert code == 3
    assert f"{labels}: annotations[0] (id 1): the keypoints have a wrong count" in err.splitlines()[-1]


@pytest.mark.parametrize("more", [("--tile", "64"), ("--landmarks",)])
def test_what_does_nothing_for_a_model_of_points_is_refused(
    shell: Any, tmp_path: Path, model: Path, more: tuple[str, ...]
) -> None:
    write_image(tmp_path / "p.png", TWO_FACES)
    more = (*more, str(model)) if more == ("--landmarks",) else more
    code, out, err = shell("detect", "p.png", "-w", model, *more)
    assert (code, out) == (2, "")
    assert "a model of points takes the whole photo for one object" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("category", "code", "said"),
    [
        ({"keypoints": ["right_eye", "left_eye"]}, 4, "the model's points are not those of the data"),
        ({"keypoints": []}, 3, "no box has a labelled point"),
        ({"keypoints": ["nose"]}, 3, "annotations[0] (id 1): the keypoints have a wrong count; found 6"),
        ({"name": "face"}, 4, "the class names do not fit"),
    ],
)
def test_eval_says_in_one_line_what_does_not_fit(
    shell: Any, tmp_path: Path, model: Path, category: dict[str, Any], code: int, said: str
) -> None:
    data = labelled(tmp_path / "data", 0, **category)
    left, out, err = shell("eval", data, "-w", model)
    assert (left, out) == (code, "")
    assert said in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("split", "fault", "said"),
    [
        ("train", "keypoints", "no box has a labelled point; found 2 boxes without points"),
        ("val", "keypoints", "no box has a labelled point; found 2 boxes without points"),
        ("train", "bbox", "annotations[0] (id 1): there are keypoints but no bbox"),
        ("val", "bbox", "annotations[0] (id 1): there are keypoints but no bbox"),
    ],
)
def test_training_says_in_one_line_what_is_missing(
    shell: Any, tmp_path: Path, split: str, fault: str, said: str
) -> None:
    pytest.importorskip("torch")
    data = labelled(tmp_path / "data", 0)
    sound = (data / "annotations/instances_val.json").read_text()
    tree = json.loads(sound)
    for annotation in tree["annotations"]:
        del annotation[fault]
    for name in ("train", "val"):
        text = json.dumps(tree) if name == split else sound
        (data / f"annotations/instances_{name}.json").write_text(text)
    code, out, err = shell("train", data, "--task", "landmarks", "--size", "32", "--backbone", "lenet5", "--run", "run")
    assert (code, out) == (3, "")
    assert said in err.splitlines()[-1]
    assert f"instances_{split}.json" in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
