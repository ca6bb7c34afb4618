"""What does nothing is refused, and a refusal says what to do: the ladder, export, import and weights commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detkit.cli import main, sliding_options
from detkit.cli.eval_localize import check_localize_options
from detkit.cli.eval_options import Extras
from detkit.engines import Outputs
from detkit.errors import UsageError, WeightsError
from detkit.infer.predictor import Predictor
from detkit.infer.tiles import Tiling
from detkit.manifest import is_shipped, weights_folder
from detkit.weights import ModelCard


class OneBox:
    """A localizer that always gives the same box."""

    name, parallel = "one box", 1
    card = ModelCard("localize", {}, ("cat",), (32, 32), thresholds={"conf": 0.4, "iou": 0.6})

    def run(self, batch_rgb: np.ndarray) -> Outputs:
        boxes_xyxy = np.tile(np.array([2, 2, 30, 30], np.float32), (len(batch_rgb), 1, 1))
        return Outputs(boxes_xyxy, np.full((len(batch_rgb), 1, 1), 0.9, np.float32))


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"tiling": Tiling(64)}, "found tiles"),
        ({"iou": 0.5}, "found an IoU threshold"),
        ({"nms": "soft"}, "found nms soft"),
    ],
)
def test_a_localizer_has_no_tiles_and_suppresses_nothing(settings: dict, found: str) -> None:
    assert len(Predictor(OneBox()).predict(np.zeros((90, 70, 3), np.uint8))) == 1
    with pytest.raises(UsageError, match=found):
        Predictor(OneBox(), **settings)


def test_a_window_model_takes_no_batch() -> None:
    sliding_options.check({}, "yolo", batch=4)
    sliding_options.check({"mode": "conv"}, "window", batch=1)
    with pytest.raises(UsageError, match="--batch: a window model"):
        sliding_options.check({}, "window", batch=4)


def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object) -> tuple[int, str]:
    """Exit code and the last line on stderr of `detkit ARGS`."""
    monkeypatch.setattr("sys.argv", ["detkit", *map(str, args)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0), capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("group", ["import", "weights", "explain", "data"])
def test_a_group_alone_shows_its_help_and_says_that_a_command_is_missing(
    group: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = shell(capsys, monkeypatch, group)
    assert (code, said) == (2, f"detkit: error: a command is missing; see detkit {group} --help")


def test_only_names_are_proposed_for_a_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.onnx").write_bytes(b"")
    code, said = shell(capsys, monkeypatch, "weights", "verify", "mine.onnx")
    assert code == 4
    assert "models that come with detkit" in said
    code, said = shell(capsys, monkeypatch, "weights", "info", "min.onnx")
    assert said.endswith("did you mean mine.onnx?")


def test_a_licence_is_not_empty(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["a.cfg", "a.weights", "--names", "a.names", "-o", "a.onnx"]
    code, said = shell(capsys, monkeypatch, "import", "darknet", *files, "--licence", " ")
    assert (code, "--licence" in said) == (2, True)


def test_export_replaces_neither_its_source_nor_a_shipped_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    face = weights_folder() / "face.onnx"
    before = face.stat()
    assert is_shipped(face)
    assert not is_shipped(tmp_path / "face.onnx")
    code, said = shell(capsys, monkeypatch, "export", "street", "-o", face)
    assert (code, "is a model that comes with detkit" in said) == (2, True)
    assert face.stat() == before
    monkeypatch.chdir(tmp_path)
    Path("mine.onnx").write_bytes(b"")
    code, said = shell(capsys, monkeypatch, "export", "mine.onnx")
    assert (code, said) == (2, "detkit: error: mine.onnx: is the model itself; expected another name, with -o")


def test_training_begins_from_a_safetensors() -> None:
    pytest.importorskip("torch")
    from detkit.cli.train_checks import find_start

    assert find_start("street") == weights_folder() / "street.safetensors"
    with pytest.raises(WeightsError, match=r"street.onnx: a model to train on is .*expected .*street.safetensors"):
        find_start(str(weights_folder() / "street.onnx"))


def test_training_refuses_what_the_run_would_not_follow(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from detkit.cli.train_checks import check_asked
    from detkit.train.settings import TrainSettings

    plain = TrainSettings()
    started = replace(plain, task="localize", start=tmp_path / "m.safetensors")
    check_asked(["task=localize", "localize.width=64", "localize_canvas.flip=0", "optim.lr=0.1", "epochs=2"], started)
    check_asked(["augment.mosaic=0", "model.width=32", "model.backbone=lenet5"], plain)
    for overrides, settings, found in (
        (["task=yolo"], started, "--task contradicts the model to start from; found yolo; expected localize"),
        (["localize.backbone=lenet5", "task=localize"], started, "leave --backbone out; found lenet5"),
        (["model.backbone=lenet5"], started, "leave --backbone out; found lenet5"),
        (["localize.width=64"], plain, "localize.width does nothing with --task yolo"),
        (["augment.mosaic=0"], started, r"augment.mosaic does nothing with --task localize; .*\[localize_canvas\]"),
        (["crop.flip=0"], plain, "crop.flip does nothing"),
    ):
        with pytest.raises(UsageError, match=found):
            check_asked(overrides, settings)


def test_a_localizer_has_figures_of_its_own() -> None:
    extras = Extras((), None, False, False, None, False, None, None, None, None, None, None)
    check_localize_options(extras, "hotcoco")
    with pytest.raises(UsageError, match="--engine computes COCO's figures"):
        check_localize_options(extras, "pycocotools")


def test_the_photos_of_a_detector_of_points_are_never_mixed() -> None:
    pytest.importorskip("torch", reason="training needs the train extra")
    from detkit.cli.train_checks import check_asked
    from detkit.models.external import TorchvisionSettings
    from detkit.train.settings import TrainSettings

    points = TrainSettings(task="torchvision", torchvision=TorchvisionSettings("keypointrcnn_resnet50_fpn"))
    check_asked(["task=torchvision", "augment.flip=0", "augment.zoom=[0.8, 1.2]"], points)
    with pytest.raises(UsageError, match=r"augment\.mosaic does nothing for a detector of points"):
        check_asked(["task=torchvision", "augment.mosaic=0.5"], points)
    check_asked(["task=torchvision", "augment.mosaic=0.5"], TrainSettings(task="torchvision"))
