"""`detkit train` as a person meets it: a real run from a shell, Ctrl-C and resume, and refusals in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from small_runs import make_shapes

from detkit.data import coco
from detkit.train.settings import TrainSettings

TINY = [
    "--backbone",
    "lenet5",
    "--set",
    "model.width=16",
    "--set",
    "model.anchors_per_scale=2",
    "--size",
    "96",
    "--batch",
    "4",
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder with the splits train and val."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    photos = tmp_path_factory.mktemp("photos")
    for split, seed in (("train", 0), ("val", 1)):
        coco.write(make_shapes(photos / split, 9, seed=seed), photos / f"coco-{split}")
    root.mkdir()
    for kind in ("images", "annotations"):
        (root / kind).mkdir()
        for split in ("train", "val"):
            for found in (photos / f"coco-{split}" / kind).iterdir():
                name = found.name if found.is_file() and split in found.name else None
                target = root / kind / (name or (f"instances_{split}.json" if found.is_file() else split))
                found.rename(target)
    return root


def detkit(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "detkit", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


def test_train_then_eval_then_detect(shapes: Path, tmp_path: Path) -> None:
    done = detkit("train", shapes, "--epochs", 2, "--json", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    finish = json.loads(done.stdout)
    assert finish["complete"] is True
    assert finish["run"] == "runs/shapes"
    for said in ("best possible recall", "the grid cannot hold", "lenet5 from random weights", "val AP", "best.onnx"):
        assert said in done.stderr, done.stderr
    scored = detkit("eval", shapes, "--weights", "runs/shapes/best.onnx", "--json", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["AP"] == pytest.approx(finish["best"], abs=0.02)
    found = detkit("detect", shapes / "images" / "val", "-w", "runs/shapes/best.onnx", "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)["images"]) == 9


def test_ctrl_c_leaves_a_run_that_is_usable_and_goes_on(shapes: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "detkit", "train", str(shapes), "--epochs", "400", *TINY]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        metrics = tmp_path / "runs" / "shapes" / "metrics.jsonl"
        for _ in range(1200):
            if metrics.exists() or running.poll() is not None:
                break
            time.sleep(0.1)
        os.kill(running.pid, signal.SIGINT)
        _, talk = running.communicate(timeout=120)
    assert running.returncode == 130, talk
    assert "--resume runs/shapes" in talk
    assert "Traceback" not in talk
    folder = tmp_path / "runs" / "shapes"
    assert (folder / "best.onnx").is_file()
    config = folder / "config.toml"
    config.write_text(config.read_text().replace("epochs = 400", "epochs = 1"))
    gone_on = detkit("train", "--resume", "runs/shapes", cwd=tmp_path)
    assert gone_on.returncode == 0, gone_on.stderr
    assert "resuming runs/shapes at epoch" in gone_on.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere"], 3, "nowhere"),
        ([], 2, "no data set"),
        (["DATA", "--set", "optim.lrr=1"], 2, "did you mean 'optim.lr'"),
        (["DATA", "--set", "optim.lr=fast"], 2, "a number"),
        (["DATA", "--size", "100"], 2, "multiple of 32"),
        (["DATA", "--backbone", "resnet19"], 2, "did you mean 'resnet18'"),
        (["DATA", "--backbone", "vgg16", "--set", "model.pretrained=true"], 2, "no ImageNet weights"),
        (["DATA", "--weights", "gone.safetensors"], 4, "gone.safetensors"),
        (["DATA", "--set", "augment.zoom=0,1"], 2, "augment.zoom"),
        (["DATA", "--set", "model.anchors_per_scale=0"], 2, "anchors_per_scale"),
        (["DATA", "--run", "/dev/null/run", *TINY], 6, "run folder"),
        (["--resume", "nowhere"], 2, "nowhere"),
        (["DATA", "--resume", "runs/x"], 2, "--resume"),
        (["DATA", "--weights", "face"], 4, "face.onnx only"),
        (["DATA", "--batch", "many"], 2, "a whole number, or auto"),
        (["DATA", "--set", "localize.width=64"], 2, "localize.width does nothing with --task yolo"),
        (["DATA", "--time", "soon"], 2, "30m"),
        (["DATA", "--time", "1m", "--epochs", "3"], 2, "contradict"),
        (["DATA", "--task", "landmarks"], 3, "labelled point"),
        (["DATA", "--format", "voc"], 3, "Pascal VOC"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    shapes: Path, tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    done = detkit("train", *[str(shapes) if word == "DATA" else word for word in words], cwd=tmp_path)
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("detkit: error:")]
    assert len(errors) == 1, done.stderr
    assert says in errors[0]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_train_extra(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from detkit.cli import main; sys.argv[1:] = ['train', 'x']; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert 'pip install "detkit-cv[train]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_states_the_defaults_the_settings_have(tmp_path: Path) -> None:
    text = re.sub(r"[\s│]+", " ", detkit("train", "--help", cwd=tmp_path).stdout)
    defaults = TrainSettings()
    for value in (defaults.epochs, defaults.size_px, defaults.batch_size, defaults.model.backbone):
        assert f"(default: {value})" in text
