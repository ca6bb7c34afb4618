"""The model that comes with detkit: whole, right on its photos, and as good as the README says."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from detkit.boxes import iou_matrix
from detkit.data.formats import read
from detkit.evaluate.coco import CONF_FLOOR, FIGURE_NAMES, MAX_DET, evaluate
from detkit.evaluate.landmarks import evaluate_landmarks
from detkit.images import read_image
from detkit.infer.landmarks import LandmarkPredictor
from detkit.infer.predictor import Predictor
from detkit.weights import find_weights, read_card, read_manifest, weights_folder

PHOTOS = Path(__file__).parent / "data" / "photos"


def test_the_manifest_and_the_files_say_the_same() -> None:
    default, listed = read_manifest()
    models = [model for model in listed if not model.url]  # the others are published elsewhere
    assert {m.file for m in models} == {p.name for p in weights_folder().iterdir() if p.name != "manifest.toml"}
    for model in models:
        path = find_weights(model.name, Path(model.file).suffix)  # verifies the sha256
        card = read_card(path)
        assert path.name == model.file
        assert card.class_names == model.classes
        assert card.licences["weights"] == model.licence
        figures = {name: value for name, value in model.accuracy.items() if name != "split"}
        assert figures
        for name, value in figures.items():
            assert value == pytest.approx(card.training["metrics"][name], abs=1e-3)
            low, high = card.training["intervals"][name]
            assert low < value < high
    assert default in {model.name for model in models}
    assert read_card(find_weights(default)) == read_card(find_weights(default, ".safetensors"))


@pytest.mark.parametrize(
    ("photo", "name", "box_xyxy"),
    [
        ("chelsea.jpg", "cat", [20, 0, 451, 300]),
        ("grace_hopper.jpg", "person", [10, 20, 500, 600]),
    ],
)
def test_it_sees_what_is_on_the_sample_photos(photo: str, name: str, box_xyxy: list[float]) -> None:
    predictor = Predictor()
    found = predictor.predict(read_image(PHOTOS / photo))
    assert predictor.class_names[found.labels[0]] == name  # the best one
    assert iou_matrix(found.boxes_xyxy[:1], [box_xyxy])[0, 0] > 0.6


def test_it_sees_nothing_where_none_of_its_classes_is() -> None:
    assert len(Predictor().predict(read_image(PHOTOS / "coffee.jpg"))) == 0


def test_real_predictions_score_alike_in_both_engines_and_as_promised(shared_data: Path) -> None:
    val = read(shared_data / "street5", "val")
    predictor = Predictor(conf=CONF_FLOOR, max_det=MAX_DET)
    found = list(predictor.predict_files([sample.image_path for sample in val]))
    quick, reference = evaluate(val, found, "hotcoco"), evaluate(val, found, "pycocotools")
    for figure in FIGURE_NAMES:
        assert getattr(quick, figure) == pytest.approx(getattr(reference, figure), abs=1e-9), figure
    for ours, theirs in zip(quick.per_class, reference.per_class, strict=True):
        assert (ours.AP, ours.AP50) == pytest.approx((theirs.AP, theirs.AP50), abs=1e-9)
    assert quick.AP50 >= 0.42
    promised = next(m for m in read_manifest()[1] if m.name == read_manifest()[0]).accuracy
    assert quick.AP50 == pytest.approx(promised["AP50"], abs=0.002)
    assert quick.AP == pytest.approx(promised["AP"], abs=0.002)


def test_face_and_points_together_on_a_sample_photo() -> None:
    predictor = Predictor("face", landmarks="face-landmarks")
    found = predictor.predict(read_image(PHOTOS / "grace_hopper.jpg"))
    assert len(found) == 1
    assert found.points_xyv is not None
    x1, y1, x2, y2 = found.boxes_xyxy[0]
    names = predictor.points_card.point_names if predictor.points_card else ()
    point = dict(zip(names, found.points_xyv[0, :, :2], strict=True))
    assert all(x1 < x < x2 and y1 < y < y2 for x, y in point.values())
    assert point["left_eye"][1] < point["nose"][1] < point["mouth_left"][1]
    names = {"street", "street-small", "street-large", "face", "face-landmarks", "face-window"}
    assert names == {model.name for model in read_manifest()[1] if not model.url}


@pytest.mark.parametrize(
    ("name", "data", "figure", "bound"),
    [
        ("face", "fddb", "AP50", 0.90),
        ("street-small", "street5", "AP50", 0.62),
        ("street-large", "street5", "AP50", 0.62),
    ],
)
def test_the_other_models_are_as_good_as_promised(
    name: str, data: str, figure: str, bound: float, shared_data: Path
) -> None:
    val = read(shared_data / data, "val")
    predictor = Predictor(name, conf=CONF_FLOOR, max_det=MAX_DET)
    found = list(predictor.predict_files([sample.image_path for sample in val]))
    promised = next(m for m in read_manifest()[1] if m.name == name).accuracy
    value = getattr(evaluate(val, found), figure)
    assert value >= bound
    assert value == pytest.approx(promised[figure], abs=0.002)


def test_the_points_are_as_good_as_promised(shared_data: Path) -> None:
    val = read(shared_data / "faces5", "val")
    found = list(LandmarkPredictor("face-landmarks").stream_truth(val.samples))
    promised = next(m for m in read_manifest()[1] if m.name == "face-landmarks").accuracy["NME"]
    assert evaluate_landmarks(val, found).figures()["NME"] == pytest.approx(promised, abs=5e-4)
    assert promised <= 0.05


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_detects(tmp_path: Path, repo: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", str(tmp_path), str(repo)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-qq", str(wheel)], check=True)
    command = [tmp_path / "empty" / "bin" / "detkit", "detect", str(PHOTOS / "chelsea.jpg"), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["images"][0]["detections"][0]["class"] == "cat"
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode != 0
