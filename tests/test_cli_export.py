"""`detkit export` as a user meets it: what is printed where, which files appear, and every exit code."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_model import card_with, write_fake_model
from typer.testing import CliRunner, Result

onnx = pytest.importorskip("onnx", reason="onnx comes with the train extra")

from detkit import cli  # noqa: E402
from detkit.export import verify  # noqa: E402
from detkit.images import write_image  # noqa: E402
from detkit.weights import read_card  # noqa: E402

RUNNER = CliRunner()
EXAMPLE = Path(cli.__file__).parents[2] / "examples" / "onnxruntime_detect.py"
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the openvino extra")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a model and two photos, red on the left and blue on the right."""
    monkeypatch.chdir(tmp_path)
    write_fake_model(tmp_path / "m.onnx", card_with(fit="stretch"))
    (tmp_path / "photos").mkdir()
    for name, size_hw in (("a.png", (80, 40)), ("b.png", (64, 64))):
        photo = np.zeros((*size_hw, 3), np.uint8)
        photo[:, : size_hw[1] // 2, 0] = photo[:, size_hw[1] // 2 :, 2] = 200
        write_image(tmp_path / "photos" / name, photo)
    return tmp_path


def export(*arguments: str) -> Result:
    result = RUNNER.invoke(cli.app, ["export", *arguments])
    if result.exit_code == 1:
        assert result.exception is not None
        raise result.exception
    return result


def refused(*arguments: str, code: int = 2) -> str:
    """The one line on stderr of an export that writes nothing."""
    before = sorted(Path().rglob("*"))
    result = export(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return result.stderr


def test_it_writes_a_named_file_and_prints_the_proof() -> None:
    result = export("m.onnx", "--nms", "--batch", "2", "--verify", "photos")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["on", "2", "photos", "of", "photos", "found", "allowed"]
    assert lines[1].split() == ["boxes", "matched", "8", "of", "8", "100%"]
    assert lines[2].split()[-4:] == ["0", "px", "0.1", "px"]
    assert (
        "m-nms-b2.onnx: 0.0 MB from m.onnx; images [2, 64, 64, 3], detections [2, 100, 6], count [2]" in result.stderr
    )
    card = read_card(Path("m-nms-b2.onnx"))
    assert (card.max_det, card.thresholds) == (100, {"conf": 0.5, "iou": 0.6})
    detected = RUNNER.invoke(cli.app, ["detect", "--weights", "m-nms-b2.onnx", "photos", "--json"])
    plain = RUNNER.invoke(cli.app, ["detect", "--weights", "m.onnx", "photos", "--json"])
    assert json.loads(detected.stdout)["images"] == json.loads(plain.stdout)["images"]


def test_json_holds_the_proof() -> None:
    result = export("m.onnx", "--nms", "--verify", "photos", "--images", "1", "-o", "n.onnx", "--json")
    document = json.loads(result.stdout)
    assert document["files"] == ["n.onnx"]
    assert document["bytes"] == Path("n.onnx").stat().st_size
    assert document["ends"]["detections"] == ["B", "100", "6"]
    proof = document["proof"]
    assert (proof["photos"], proof["images"], proof["boxes"], proof["matched"]) == ("photos", 1, 4, 4)
    assert (proof["box_px"], proof["score"], proof["passed"], proof["figures"]) == (0.0, 0.0, True, {})
    unproven = export("m.onnx", "-o", "u.onnx", "--no-verify", "--json")
    assert json.loads(unproven.stdout)["proof"] is None


def test_without_photos_it_says_that_it_was_noise() -> None:
    result = export("m.onnx", "-o", "n.onnx")
    assert result.exit_code == 0, result.output
    assert "on 16 photos of noise" in result.stdout
    assert "--verify DATA" in result.stderr


def test_an_export_out_of_tolerance_is_exit_6_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verify.TOLERANCES, "fp32", verify.Tolerance(-1.0, 1e-3))
    said = refused("m.onnx", "-o", "n.onnx", "--verify", "photos", code=6)
    assert "not kept; found 8 of 8 boxes matched, up to 0 px" in said


@needs_openvino
def test_openvino_writes_two_files_that_detect_runs() -> None:
    result = export("m.onnx", "--to", "openvino", "--verify", "photos")
    assert result.exit_code == 0, result.output
    assert {path.name for path in Path().glob("m.*")} == {"m.onnx", "m.xml", "m.bin"}
    detected = RUNNER.invoke(cli.app, ["detect", "--weights", "m.xml", "photos", "--json"])
    assert detected.exit_code == 0, detected.output
    document = json.loads(detected.stdout)
    assert document["model"]["engine"] == "openvino"
    assert [len(image["detections"]) for image in document["images"]] == [4, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--half", "--int8", "--calib", "photos"], "contradict"),
        (["--no-verify", "--verify", "photos"], "contradict"),
        (["--no-verify", "--images", "3"], "contradict"),
        (["--int8"], "--calib DATA"),
        (["--calib", "photos"], "--calib is for --int8"),
        (["--conf", "0.5"], "for --nms"),
        (["--size", "64*64"], "expected HxW"),
        (["--size", "64x64x64"], "expected HxW"),
        (["--size", "100"], "try 96"),
        (["--size", "128"], "was made for H = 64"),
        (["--batch", "two"], "a number, or dynamic"),
        (["--to", "torchscript"], "needs the .safetensors"),
        (["--to", "openvino", "-o", "m.onnx"], "writes a .xml file"),
        (["-o", "m.onnx"], "never changed"),
        (["-o", "nowhere/m.onnx"], "folder is not there"),
        ([], "is the model itself"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    assert message in refused("m.onnx", *arguments)


def test_data_and_weights_that_are_not_there_have_their_codes() -> None:
    assert "no such data set or folder" in refused("m.onnx", "-o", "n.onnx", "--verify", "street", code=3)
    Path("empty").mkdir()
    assert "photos" in refused("m.onnx", "-o", "n.onnx", "--verify", "empty", code=3)
    refused("other.onnx", "-o", "n.onnx", code=4)
    Path("m.pt").write_bytes(b"\x80\x02")
    assert "pickle" in refused("m.pt", "-o", "n.onnx", code=4)
    refused("street-small", "--to", "torchscript", code=4)


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("onnx", ["m.onnx", "-o", "n.onnx"], "[train]"),
        ("torch", ["street", "--to", "torchscript"], "[train]"),
        ("openvino", ["m.onnx", "--to", "openvino"], "[openvino]"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package: str, arguments: list[str], extra: str) -> None:
    script = f"import sys; sys.modules[{package!r}] = None; from detkit.cli import main; main()"
    command = [sys.executable, "-c", script, "export", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("\n") == 1
    assert extra in done.stderr
    assert not list(Path().glob("n.*"))


def test_an_onnx_file_needs_no_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; from detkit.cli import main; main()"
    command = [sys.executable, "-c", script, "export", "m.onnx", "--nms", "-o", "n.onnx", "--verify", "photos"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_card(Path("n.onnx")).max_det == 100


def test_the_example_script_gives_the_boxes_of_detect() -> None:
    """The default model, on a photo that is shrunk by less than two; the boxes are printed to a tenth of a pixel."""
    photo = Path(cli.__file__).parents[2] / "tests" / "data" / "photos" / "chelsea.jpg"
    assert export("street", "--nms", "-o", "n.onnx", "--images", "1").exit_code == 0
    done = subprocess.run([sys.executable, str(EXAMPLE), "n.onnx", str(photo)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    detected = json.loads(RUNNER.invoke(cli.app, ["detect", str(photo), "--json"]).stdout)["images"][0]["detections"]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [one["class"] for one in detected]
    for line, one in zip(lines, detected, strict=True):
        np.testing.assert_allclose([float(side) for side in line[2:]], one["box_xyxy"], atol=0.06)
        assert float(line[1]) == pytest.approx(one["score"], abs=1e-4)
