"""The task "localize" in use: trained, measured, compared and run from the shell; three engines that agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
from small_runs import make_shapes, tiny_settings
from test_cli_eval import make_data

from detkit.cli import main
from detkit.data import coco, formats
from detkit.data.dataset import Dataset
from detkit.engines import open_engine
from detkit.engines.torch import TorchEngine
from detkit.errors import DataError, WeightsError
from detkit.evaluate.localization import evaluate_localization, one_or_none
from detkit.export import export_onnx
from detkit.infer.predictor import Predictor
from detkit.models.build import architecture, build
from detkit.models.localize import LocalizeSettings
from detkit.train.distributed import ALONE
from detkit.train.settings import TrainSettings, resolve
from detkit.train.start import begin, check_data, usable_data
from detkit.weights import CARD_KEY, ModelCard, read_card

TINY = LocalizeSettings("lenet5", pretrained=False, width=8, hidden=32)
GUESS = {"box_rel_xyxy": [0.0, 0.0, 0.5, 1.0], "class_name": "red", "says_object": True}


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `detkit ARGS`; returns exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detkit", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def localizer(colour_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of colours as a localizer: its box is the whole photo, the shares of red, green and blue its scores."""
    model = onnx.load(str(colour_model))
    card = replace(read_card(colour_model), task="localize", thresholds={"conf": 0.6, "iou": 0.6})
    card = replace(card, training={"baseline": GUESS})
    onnx.helper.set_model_props(model, {CARD_KEY: card.to_json()})
    path = tmp_path_factory.mktemp("localizer") / "colours.onnx"
    onnx.save(model, str(path))
    return path


def add_box(folder: Path, image_id: int, *, crowd: bool = False) -> None:
    """One more box on a photo of `make_data`."""
    file = folder / "annotations" / "instances_val.json"
    tree = json.loads(file.read_text())
    box = {"bbox": [0, 0, 20, 20], "area": 400, "iscrowd": int(crowd)}
    tree["annotations"].append({"id": 100 + image_id, "image_id": image_id, "category_id": 10, **box})
    file.write_text(json.dumps(tree))


def shapes_folder(tmp_path: Path) -> tuple[Path, Dataset]:
    """A COCO folder of shapes, of which some photos have one, and its training split."""
    splits = [replace(make_shapes(tmp_path / f"made-{s}", 12, seed=k), split=s) for k, s in enumerate(("train", "val"))]
    coco.write(splits, tmp_path / "shapes")
    return tmp_path / "shapes", splits[0]


def test_trained_then_measured_then_run(tmp_path: Path, shell: Any) -> None:
    folder, made = shapes_folder(tmp_path)
    settings = replace(tiny_settings(epochs=2), data=folder, task="localize", localize=TINY, self_test=False)
    data = usable_data(check_data(settings), settings)
    assert 1 < len(data.train) < len(made)
    assert len(data.train) == sum(len(sample.truth) <= 1 for sample in made)
    fit = begin(data, settings, tmp_path / "run", ALONE)
    fit.begin()
    reports = list(fit.run())
    best = tmp_path / "run" / "best.onnx"
    card = read_card(best)
    assert (card.task, card.architecture) == ("localize", {"backbone": "lenet5", "width": 8, "hidden": 32})
    assert card.training["unsuited_images"] == data.unsuited_images == 24 - len(data.train) - len(data.val)
    assert card.training["baseline"]["class_name"] in card.class_names
    assert list(card.training["intervals"]) == ["quality", "LOC", "mean_IoU", "class_accuracy", "pc_accuracy"]
    assert reports[-1].figure == "quality"
    code, out, err = shell("eval", folder, "-w", best, "--json")
    assert code == 0, err
    scored = json.loads(out)
    assert scored["quality"] == pytest.approx(reports[-1].best, abs=0.02)
    assert scored["left_out"] == 12 - len(data.val)
    assert set(scored["baseline"]) < set(scored)
    code, out, err = shell("detect", folder / "images" / "val", "-w", best, "--conf", "0", "--json")
    assert code == 0, err
    assert [len(image["detections"]) for image in json.loads(out)["images"]] == [1] * 12
    code, out, _ = shell("runs", tmp_path)
    assert "localize lenet5" in out
    assert "quality" in out


def test_figures_from_the_shell(tmp_path: Path, shell: Any, localizer: Path) -> None:
    folder = make_data(tmp_path / "data", ["red", "blue", "grey", "green", "red", "red"])
    add_box(folder, 5)
    add_box(folder, 6, crowd=True)
    code, out, err = shell("eval", folder, "-w", localizer, "--json", "--save-predictions", tmp_path / "boxes.json")
    assert code == 0, err
    scored = json.loads(out)
    # the photos are 200 of 255 in their colour, the grey one 128 in each: found are the first, not the grey one
    assert (scored["photos"], scored["objects"], scored["left_out"]) == (4, 3, 2)
    assert (scored["quality"], scored["LOC"], scored["misses"], scored["false_alarms"]) == (1, 1, 0, 0)
    assert scored["baseline"]["mean_IoU"] == pytest.approx(0.5)
    assert scored["baseline"]["class_accuracy"] == pytest.approx(1 / 3)
    assert scored["ratio"] == pytest.approx(2)
    assert scored["weights"] == str(localizer)
    boxes = json.loads((tmp_path / "boxes.json").read_text())
    assert [row["image_id"] for row in boxes] == [1, 2, 3, 4]
    code, out, err = shell("eval", folder, "-w", localizer)
    assert code == 0, err
    for said in ("mean_IoU", "LOC", "95 % interval", "mean box", "green"):
        assert said in out
    assert "3 with one object, 1 with none; 2 photos with more than one left out" in err
    assert "2.00 times that of the mean box" in err


def test_a_card_without_a_guesser_is_measured_alone(tmp_path: Path, shell: Any, localizer: Path) -> None:
    model = onnx.load(str(localizer))
    card = replace(read_card(localizer), training={})
    onnx.helper.set_model_props(model, {CARD_KEY: card.to_json()})
    onnx.save(model, str(tmp_path / "m.onnx"))
    folder = make_data(tmp_path / "data", ["red", "blue"])
    code, out, err = shell("eval", folder, "-w", tmp_path / "m.onnx", "--json")
    assert code == 0, err
    assert json.loads(out)["baseline"] is None
    code, _, err = shell("eval", folder, "-w", tmp_path / "m.onnx")
    assert code == 0
    assert "times that" not in err


def test_one_box_or_none_whatever_the_threshold(tmp_path: Path, shell: Any, localizer: Path) -> None:
    folder = make_data(tmp_path / "data", ["red", "grey"]) / "images"

    def found(*options: object) -> list[int]:
        code, out, err = shell("detect", folder, "-w", localizer, "--json", *options)
        assert code == 0, err
        return [len(image["detections"]) for image in json.loads(out)["images"]]

    assert found() == [1, 0]
    assert found("--conf", 0) == [1, 1]
    assert found("--conf", 0, "--max-det", 3) == [3, 3]  # its classes, best first
    code, _, err = shell("detect", folder, "-w", localizer, "--size", 64)
    assert code == 2
    assert "looks at its own size only" in err
    code, _, err = shell("detect", folder, "-w", localizer, "--out", tmp_path / "out")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".png") == ["1.png", "2.png"]


def test_what_a_localizer_cannot_give_is_refused(tmp_path: Path, shell: Any, localizer: Path) -> None:
    folder = make_data(tmp_path / "data", ["red", "blue"])
    for option in (["--voc"], ["--mistakes"], ["--plots", tmp_path / "p"], ["--report", tmp_path / "r.html"]):
        code, _, err = shell("eval", folder, "-w", localizer, *option)
        assert code == 2
        assert f"{option[0]} is about many boxes a photo" in err
    for photo in (1, 2):
        add_box(folder, photo)
    code, _, err = shell("eval", folder, "-w", localizer)
    assert code == 3
    assert len([line for line in err.splitlines() if "no photo has exactly one object" in line]) == 1


def test_compared_by_cocos_figures_like_any_model(tmp_path: Path, shell: Any, localizer: Path) -> None:
    folder = make_data(tmp_path / "data", ["red", "blue", "green", "red"])
    code, out, err = shell("compare", localizer, localizer, "--data", folder, "--json", "--draws", 20)
    assert code == 0, err
    assert json.loads(out)["AP"]["a"] == pytest.approx(1)


@pytest.mark.parametrize("kind", ["no boxes", "crowded"])
def test_data_with_nothing_to_localize_is_refused_before_training(tmp_path: Path, kind: str) -> None:
    colours = ["grey"] * 3 if kind == "no boxes" else ["red"] * 3
    for split in ("train", "val"):
        folder = make_data(tmp_path / split, colours)
        if kind == "crowded":
            for photo in (1, 2, 3):
                add_box(folder, photo)
    data = formats.read(tmp_path / "train", None, None)
    with pytest.raises(DataError, match="no photo has exactly one object"):
        one_or_none(data)


def test_a_detector_is_no_start_for_a_localizer(tmp_path: Path) -> None:
    from detkit.weights import find_weights

    settings = replace(TrainSettings(), task="localize", start=find_weights("street", ".safetensors"))
    with pytest.raises(WeightsError, match="found 'yolo'; expected 'localize'"):
        resolve(settings)


def test_a_localizer_goes_on_where_another_was(tmp_path: Path) -> None:
    """Other classes: all but the layer of the classes is taken over."""
    folder, _ = shapes_folder(tmp_path)
    settings = replace(tiny_settings(epochs=1), data=folder, task="localize", localize=TINY, self_test=False)
    data = usable_data(check_data(settings), settings)
    first = begin(data, settings, tmp_path / "first", ALONE)
    first.begin()
    list(first.run())
    again = resolve(replace(settings, task="yolo", start=tmp_path / "first" / "best.safetensors"))
    assert again.task == "localize"
    names = ("red", "blue", "green")
    other = replace(data.train, class_names=names, category_ids=(1, 2, 3))
    both = replace(data, train=other, val=replace(data.val, class_names=names, category_ids=(1, 2, 3)))
    second = begin(both, again, tmp_path / "second", ALONE).learner.model
    now = second.state_dict()
    for name, value in first.learner.averaged_model().state_dict().items():
        assert name.startswith("classes.") or bool((now[name] == value).all()), name
    assert second.classes.weight.shape == (3, 32)


def test_engines_agree_on_real_photos(tmp_path: Path, shared_data: Path) -> None:
    import torch

    torch.manual_seed(0)
    settings = LocalizeSettings("mobilenet_v2", pretrained=False)
    data = one_or_none(formats.read(shared_data / "street5", "val", None))
    data = replace(data, samples=data.samples[:6])
    card = ModelCard("localize", architecture(settings), data.class_names, (160, 160))
    model = build(card, settings).eval()
    with torch.no_grad():
        model.sides.weight.normal_(0, 0.1)
        model.classes.weight.normal_(0, 0.1)
    export_onnx(model, card, tmp_path / "m.onnx")
    paths = [sample.image_path for sample in data]
    ours = list(Predictor(TorchEngine(model, card), conf=0).predict_files(paths))
    assert np.std([found.boxes_xyxy[0] for found in ours], axis=0).max() > 0.5
    for name in ("onnxruntime", "openvino"):
        if name == "openvino":
            pytest.importorskip("openvino")
        theirs = list(Predictor(open_engine(tmp_path / "m.onnx", name), conf=0).predict_files(paths))
        for a, b in zip(ours, theirs, strict=True):
            assert a.labels.tolist() == b.labels.tolist()
            np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=0.05)
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
    assert evaluate_localization(data, ours, 0.5).photos == 6
