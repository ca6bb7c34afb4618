"""`detkit import darknet` from the shell's side, and what is done with its models: detect, evaluate, train on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from small_darknet import EVERYTHING, NAMES, YOLO, write_model  # noqa: E402
from small_runs import PHOTO, make_shapes, start, tiny_settings  # noqa: E402

from detkit.cli import main  # noqa: E402
from detkit.engines import open_engine  # noqa: E402
from detkit.errors import UsageError, WeightsError  # noqa: E402
from detkit.images import place, read_image  # noqa: E402
from detkit.infer.predictor import Predictor  # noqa: E402
from detkit.models.checkpoint import load_model  # noqa: E402
from detkit.models.darknet.cfg import parse_cfg  # noqa: E402
from detkit.models.darknet.files import DarknetFiles  # noqa: E402
from detkit.models.darknet.weights import import_darknet  # noqa: E402
from detkit.train.settings import TrainSettings, resolve  # noqa: E402
from detkit.weights import read_card  # noqa: E402


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


def words_of(files: DarknetFiles, out: Path) -> list[object]:
    return ["import", "darknet", files.cfg, files.weights, "--names", files.names, "-o", out]


def test_a_model_to_run(shell: Any, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    code, table, talk = shell(*words_of(write_model(tmp_path), out), "--licence", "CC0-1.0")
    assert code == 0, talk
    assert table.split("\n")[1].split() == ["16", "20x30", "30.5x20"]
    assert "net.cfg: 19 layers, " in talk
    assert "2 classes, 96 x 64 px, photos stretched" in talk
    assert read_card(out).licences["weights"] == "CC0-1.0"
    code, found, talk = shell("detect", PHOTO, "--weights", out, "--conf", "0.05", "--json", "--no-pictures")
    assert code == 0, talk
    assert json.loads(found)


def test_a_model_to_train_on_as_json(shell: Any, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    code, text, talk = shell(*words_of(write_model(tmp_path), out), "--fit", "letterbox", "--json")
    assert code == 0, talk
    facts = json.loads(text)
    assert (facts["classes"], facts["fit"], facts["proof"], facts["layers"]) == (list(NAMES), "letterbox", None, 19)
    assert facts["heads"][1] == {"stride_px": 8, "anchors_wh_px": [[12, 16], [4, 2]]}
    assert read_card(out).fit == "letterbox"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"output": "net.pt"}, 2, "--output; found net.pt; expected a .onnx file or a .safetensors file"),
        (
            {"cfg": EVERYTHING.replace("mish", "gelu")},
            4,
            "net.cfg:16: [convolutional] unknown activation; found 'gelu'",
        ),
        ({"cfg": YOLO}, 4, "net.weights: is longer than its cfg says; found "),
        ({"names": "red"}, 4, "net.names: holds another number of class names; found 1 names; expected 2"),
        ({"output": "lost/net.safetensors"}, 2, "its folder is not there"),
    ],
)
def test_a_mistake_is_one_line(
    shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = write_model(Path())
    files.cfg.write_text(change.get("cfg", EVERYTHING))
    files.names.write_text(change.get("names", "red\nblue\n"))
    left, out, talk = shell(*words_of(files, Path(change.get("output", "net.safetensors"))))
    assert (left, out) == (code, ""), talk
    assert talk.startswith("detkit: error: ")
    assert talk.count("\n") == 1
    assert words in talk
    assert not list(tmp_path.glob("net.s*"))


def test_files_are_read_without_torch(tmp_path: Path) -> None:
    """So a wrong file is said to be one before PyTorch is loaded, or where it is not installed."""
    files = write_model(tmp_path)
    script = f"""
import sys
sys.modules["torch"] = None
from pathlib import Path
from detkit.models.darknet.files import DarknetFiles, read_darknet
print(read_darknet(DarknetFiles(*map(Path, {[str(files.cfg), str(files.weights), str(files.names)]}))).class_names)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == f"{NAMES}\n", done.stderr


def test_stretch_is_what_the_photo_meets(tmp_path: Path) -> None:
    """The predictor lays the photo over the whole canvas, at the card's size and at another."""
    from detkit.export import export_onnx

    model, card = import_darknet(write_model(tmp_path))
    export_onnx(model, card, tmp_path / "net.onnx")
    predictor = Predictor(tmp_path / "net.onnx", conf=0.0, iou=1.0, max_det=10_000)
    photo = read_image(PHOTO)
    canvas, at = place(photo, (64, 96), "stretch", 128)
    boxes = at.to_image(predictor.engine.run(canvas[None]).boxes_xyxy[0])
    boxes = np.clip(boxes, 0, [photo.shape[1], photo.shape[0]] * 2)
    found = predictor.predict(photo).boxes_xyxy
    assert len(found) > 100
    assert np.abs(found[:, None] - boxes[None]).max(2).min(1).max() < 0.01
    assert len(Predictor(tmp_path / "net.onnx", conf=0.0, size_px=128).predict(photo))


def test_other_classes_are_learnt_from_an_imported_model(tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "shapes", 12)
    model, card = import_darknet(write_model(tmp_path))
    card = replace(card, class_names=("cat", "dog"))
    from detkit.models.checkpoint import save_model

    save_model(tmp_path / "net.safetensors", model, card)
    settings = tiny_settings(start=tmp_path / "net.safetensors", epochs=2)
    assert settings.task == "darknet"
    fit = start(tmp_path / "run", data, settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    taken = fit.learner.model.state_dict()
    for name, value in before.items():
        assert torch.equal(value, taken[name]) != name.startswith(fit.learner.model.class_layers), name
    list(fit.run())
    best, best_card = load_model(tmp_path / "run/best.safetensors")
    assert (best_card.task, best_card.class_names, best_card.fit) == ("darknet", data.class_names, "letterbox")
    assert best_card.anchors_wh_px == card.anchors_wh_px
    assert open_engine(tmp_path / "run/best.onnx").card == best_card
    stem = "backbone.stages.0.0.0.weight"
    assert torch.equal(best.state_dict()[stem], before[stem])  # frozen, as every backbone's that has learnt before


def test_the_same_network_from_random_weights(tmp_path: Path, shell: Any) -> None:
    files = write_model(tmp_path)
    settings = resolve(
        replace(TrainSettings(), task="darknet", darknet=replace(TrainSettings().darknet, cfg=str(files.cfg)))
    )
    assert parse_cfg(settings.darknet.cfg).layers == import_darknet(files)[0].cfg.layers
    assert parse_cfg(settings.darknet.cfg).input_hw == (320, 320)
    assert resolve(settings) == settings
    with pytest.raises(UsageError, match="no Darknet network"):
        resolve(replace(TrainSettings(), task="darknet"))
    with pytest.raises(WeightsError, match="cannot be read"):
        resolve(replace(TrainSettings(), task="darknet", darknet=replace(settings.darknet, cfg="lost.cfg")))
    code, _, talk = shell("train", tmp_path, "--model", "darknet:")
    assert (code, "expected torchvision:NAME or darknet:FILE.cfg" in talk) == (2, True)


def test_all_engines_give_the_boxes_of_an_imported_model(shared_data: Path, tmp_path: Path) -> None:
    """PyTorch, onnxruntime and OpenVINO (fp32) on 50 real photos: 0.1 px and 0.001 in score."""
    pytest.importorskip("openvino")
    from detkit.engines.openvino import OpenVinoEngine
    from detkit.engines.torch import TorchEngine
    from detkit.export import export_onnx

    folder = shared_data.parent / "weights" / "darknet"
    name = "MobileNetV2-YOLO-Fastest-voc-v2"
    files = DarknetFiles(folder / f"{name}.cfg", folder / f"{name}.weights", folder / "voc.names")
    model, card = import_darknet(files)
    export_onnx(model, card, tmp_path / "net.onnx")
    photos = [read_image(path) for path in sorted((shared_data / "street5/images/val").iterdir())[:50]]
    canvases = np.stack([place(photo, card.input_hw, card.fit, card.pad_value)[0] for photo in photos])
    one = TorchEngine(model, card).run(canvases)
    for engine in open_engine(tmp_path / "net.onnx"), OpenVinoEngine(tmp_path / "net.onnx", precision="fp32"):
        other = engine.run(canvases)
        assert np.abs(other.boxes_xyxy - one.boxes_xyxy).max() < 0.1
        assert np.abs(other.scores - one.scores).max() < 1e-3
    assert (one.scores.max(2) > 0.25).sum() > 50
