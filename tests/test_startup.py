"""Light commands stay light: no PyTorch, and nothing imported before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_model import write_fake_model

import detkit
from detkit.cli import COMMANDS

ROOT = Path(detkit.__file__).parent.parent
TORCH = ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript")
HEAVY = (*TORCH, "cv2", "onnxruntime", "pycocotools", "hotcoco", "av")


def imported_by(script: str, *arguments: str) -> tuple[set[str], str]:
    """Run a script in which PyTorch and its friends cannot be imported: the top-level modules loaded, its stdout."""
    program = f"""
import atexit, json, sys
for name in {TORCH}:
    sys.modules[name] = None
sys.argv[1:] = {list(arguments)}
def tell():
    print(json.dumps(sorted({{name.split(".")[0] for name, module in sys.modules.items() if module}})), file=sys.stderr)
atexit.register(tell)
{script}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1])), done.stdout


def test_import_detkit_imports_next_to_nothing() -> None:
    loaded, _ = imported_by("import detkit")
    assert not loaded & {*HEAVY, "numpy", "typer", "rich"}


def test_the_public_names_are_there() -> None:
    assert dir(detkit) == sorted(detkit.__all__)
    for name in detkit.__all__:
        assert getattr(detkit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = detkit.nothing
    loaded, _ = imported_by("from detkit import Predictor, Detections, DetkitError, read_image")
    assert not loaded & {*TORCH, "cv2", "typer"}


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",), ("detect", "--help")])
def test_help_needs_no_numpy(arguments: tuple[str, ...]) -> None:
    loaded, out = imported_by("from detkit.cli import main; main()", *arguments)
    assert not loaded & {*HEAVY, "numpy"}
    if arguments in ((), ("--help",)):
        assert all(name in out and short[:30] in out for name, (_, short) in COMMANDS.items())


def test_detect_runs_without_torch(tmp_path: Path) -> None:
    photo = ROOT / "tests/data/photos/chelsea.jpg"
    model = write_fake_model(tmp_path / "m.onnx")
    run = ("from detkit.cli import main; main()", "detect", str(photo), "--weights", str(model))
    loaded, out = imported_by(*run, "--json")
    assert json.loads(out)["images"][0]["width"] == 451
    assert not loaded & {*TORCH, "pycocotools", "hotcoco", "av", "yaml"}
    loaded, out = imported_by(*run, "--out", str(tmp_path / "out"))
    assert "chelsea.jpg" in out
    assert (tmp_path / "out" / "chelsea.jpg").is_file()
    assert not loaded & set(TORCH)


def test_every_command_of_the_table_can_be_loaded() -> None:
    pytest.importorskip("torch")
    for name, (target, short) in COMMANDS.items():
        module, _, attribute = target.partition(":")
        if not (ROOT / "detkit/cli" / f"{module}.py").is_file():
            continue  # not written yet
        loaded = __import__(f"detkit.cli.{module}", fromlist=[attribute])
        assert getattr(loaded, attribute), name
        assert short.endswith(".")
