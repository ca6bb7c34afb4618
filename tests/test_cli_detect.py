"""`detkit detect` as a user meets it: what is printed where, which files appear, and every exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pytest
import typer
from fake_model import card_with, write_fake_model
from typer.testing import CliRunner, Result

from detkit import cli, manifest
from detkit.errors import DataError, MissingExtraError
from detkit.images import write_image

RUNNER = CliRunner()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a model, and two photos: left half red, and all black."""
    monkeypatch.chdir(tmp_path)
    write_fake_model(tmp_path / "m.onnx", card_with(fit="stretch"))
    (tmp_path / "photos").mkdir()
    write_image(tmp_path / "photos" / "red.png", half_red())
    write_image(tmp_path / "photos" / "black.png", np.zeros((30, 20, 3), np.uint8))
    return tmp_path


def half_red() -> np.ndarray:
    photo = np.zeros((40, 80, 3), np.uint8)
    photo[:, :40, 0] = 255
    return photo


def detect(*arguments: str) -> Result:
    result = RUNNER.invoke(cli.app, ["detect", "--weights", "m.onnx", *arguments])
    if result.exit_code == 1:
        assert result.exception is not None
        raise result.exception
    return result


def in_shell(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, whose exit code is the real one."""
    command = [sys.executable, "-m", "detkit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, **settings)


def the_error(result: Result | subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("detkit: error: ")
    return lines[0]


def test_json_is_one_document_and_writes_no_pictures(here: Path) -> None:
    done = in_shell("detect", "photos", "--weights", "m.onnx", "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["version"] == 2
    assert document["model"] == {
        "file": "m.onnx",
        "engine": "onnxruntime",
        "class_names": ["red", "blue"],
        "conf": 0.5,
        "iou": 0.6,
        "max_det": 100,
    }
    black, red = document["images"]
    assert black == {
        "version": 2,
        "kind": "photo",
        "name": "photos/black.png",
        "width": 20,
        "height": 30,
        "detections": [],
    }
    assert (red["name"], red["width"], red["height"]) == ("photos/red.png", 80, 40)
    assert red["detections"] == [
        {"label": 0, "class": "red", "score": 1.0, "box_xyxy": [0.0, 0.0, 40.0, 20.0]},
        {"label": 0, "class": "red", "score": 1.0, "box_xyxy": [0.0, 20.0, 40.0, 40.0]},
    ]
    assert sorted(path.name for path in here.iterdir()) == ["m.onnx", "photos"]


def test_json_with_out_names_the_pictures(here: Path) -> None:
    document = json.loads(detect("photos", "--json", "--out", "drawn").stdout)
    assert [image["picture"] for image in document["images"]] == ["drawn/black.png", "drawn/red.png"]
    assert (here / "drawn" / "red.png").is_file()


def test_without_json_a_table_and_pictures(here: Path) -> None:
    done = detect("photos")
    assert done.stdout.splitlines() == [
        "photo             class      score  x1  y1  x2  y2",
        "photos/black.png  (nothing)",
        "photos/red.png    red         1.00   0   0  40  20",
        "photos/red.png    red         1.00   0  20  40  40",
    ]
    assert "2 objects in 2 photos" in done.stderr
    assert "m.onnx on onnxruntime" in done.stderr
    assert "pictures and videos: runs/detect" in done.stderr
    assert sorted(path.name for path in (here / "runs/detect").iterdir()) == [
        "black.png",
        "detections.jsonl",
        "red.png",
    ]
    again = detect(".")  # results of the first run are no photos
    assert again.stdout.count("black.png") == 1


def test_no_pictures(here: Path) -> None:
    detect("photos", "--no-pictures")
    assert not (here / "runs").exists()
    assert the_error(detect("photos", "--no-pictures", "--out", "x")).endswith("contradict each other")


def test_thresholds_reach_the_predictor() -> None:
    def count(*arguments: str) -> int:
        document = json.loads(detect("photos/red.png", "--json", *arguments).stdout)
        return len(document["images"][0]["detections"])

    assert [count(), count("--max-det", "1"), count("--conf", "0")] == [2, 1, 8]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.png"], 3, "missing.png: no such file or folder"),
        (["empty"], 3, "empty: no photos or videos in this folder"),
        (["photos", "nowhere"], 3, "nowhere: no such file or folder"),
        (["film.mp4", "--no-pictures"], 3, "film.mp4: cannot be read as a video"),
        (["photos", "--weights", "missing.onnx"], 4, "no such file; did you mean m.onnx"),
        (["photos", "--weights", "torch.pt"], 4, "is a pickle, which can run code"),
        (["photos", "--weights", "zipped.onnx"], 4, "is a pickle, which can run code"),
        (["photos", "--weights", "cut.onnx"], 4, "truncated"),
        (["photos", "--weights", "photos"], 4, "is a folder"),
        (["photos", "--weights", "m.safetensors"], 4, "no safetensors file"),
        (["photos", "--conf", "2"], 2, "conf of a prediction; found 2.0; expected 0 to 1"),
        (["photos", "--conf", "high"], 2, "--conf"),
        (["photos", "--max-det", "0"], 2, "max_det"),
        (["photos", "--out", "photos"], 2, "give another --out"),
        (["photos", "--out", "m.onnx"], 6, "m.onnx"),
        (["photos", "--no-such"], 2, "No such option: --no-such; see detkit detect --help"),
        ([], 2, "Missing argument 'SOURCE...'"),
    ],
)
def test_bad_input_is_one_line_and_its_exit_code(arguments: list[str], code: int, said: str, here: Path) -> None:
    (here / "empty").mkdir()
    (here / "film.mp4").write_bytes(b"\0" * 100)
    (here / "torch.pt").write_bytes(b"\x80\x02}q\0.")
    (here / "zipped.onnx").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    (here / "cut.onnx").write_bytes((here / "m.onnx").read_bytes()[:300])
    (here / "m.safetensors").write_bytes(b"\0" * 100)
    before = sorted(here.rglob("*"))
    done = detect(*arguments)
    assert done.exit_code == code, done.stderr
    assert said in the_error(done)
    assert done.stdout == ""
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["detct"], ["--no-such"]])
def test_a_mistyped_command_line_is_one_line(arguments: list[str]) -> None:
    done = in_shell(*arguments)
    assert done.returncode == 2
    assert "detkit --help" in the_error(done)


def damage(folder: Path) -> None:
    write_image(folder / "a.jpg", half_red())
    whole = (folder / "a.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "c.jpg").write_bytes(b"")
    (folder / "d.png").write_bytes(b"no picture at all")
    write_image(folder / "e.jpg", half_red())


def test_unreadable_photos_are_named_and_the_rest_goes_on(here: Path) -> None:
    (here / "mixed").mkdir()
    damage(here / "mixed")
    done = in_shell("detect", "mixed", "--weights", "m.onnx", "--json", "--out", "drawn")
    assert done.returncode == 3
    *warnings, error = done.stderr.strip().splitlines()
    assert error == "detkit: error: 3 of 5 photos could not be read"
    assert [name for name in "abcde" if any(f"mixed/{name}." in line for line in warnings)] == ["b", "c", "d"]
    images = json.loads(done.stdout)["images"]
    assert [image["name"][-5:] for image in images] == ["a.jpg", "b.jpg", "c.jpg", "d.png", "e.jpg"]
    assert ["error" in image for image in images] == [False, True, True, True, False]
    assert len(images[0]["detections"]) == len(images[4]["detections"]) == 2
    assert sorted(path.name for path in (here / "drawn").glob("*.jpg")) == ["a.jpg", "e.jpg"]
    table = detect("mixed").stdout
    assert table.count("(unreadable)") == 3


def test_a_lone_unreadable_photo_is_one_error(here: Path) -> None:
    (here / "empty.jpg").write_bytes(b"")
    done = detect("empty.jpg", "--json")
    assert done.exit_code == 3
    assert "empty.jpg: is empty" in done.stderr
    assert [line for line in done.stderr.splitlines() if "error" in line] == done.stderr.splitlines()[-1:]
    assert "is empty" in json.loads(done.stdout)["images"][0]["error"]
    assert not (here / "runs").exists()


def with_exif_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF block that holds one entry, 0x0112."""
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0, 0, 0, 0, 0])
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]


def odd_photo(kind: str, path: Path) -> Path:
    """The half-red photo in an unusual form."""
    bgr = half_red()[:, :, ::-1]
    if kind == "16-bit":
        cv2.imwrite(str(path), bgr.astype(np.uint16) * 257)
    elif kind == "rgba":
        cv2.imwrite(str(path), np.dstack([bgr, np.full(bgr.shape[:2], 255, np.uint8)]))
    elif kind == "grey":
        cv2.imwrite(str(path), bgr[:, :, 2])
    elif kind == "cmyk":
        pillow = pytest.importorskip("PIL.Image")
        pillow.fromarray(half_red()).convert("CMYK").save(path, "JPEG", quality=95)
    else:  # EXIF 6: stored on its side, to be turned 90 degrees clockwise
        stored = np.rot90(bgr)
        path.write_bytes(with_exif_orientation(cv2.imencode(".jpg", stored)[1].tobytes(), 6))
    return path


@pytest.mark.parametrize(
    ("kind", "name"), [("16-bit", "a.png"), ("rgba", "a.png"), ("grey", "a.png"), ("cmyk", "a.jpg"), ("exif", "a.jpg")]
)
def test_unusual_photos_work(kind: str, name: str, here: Path) -> None:
    odd_photo(kind, here / name)
    document = json.loads(detect(name, "--json").stdout)
    image = document["images"][0]
    assert (image["width"], image["height"]) == (80, 40)
    found = {(one["class"], tuple(one["box_xyxy"])) for one in image["detections"]}
    left = {(0.0, 0.0, 40.0, 20.0), (0.0, 20.0, 40.0, 40.0)}
    assert found == {(c, box) for box in left for c in (("red", "blue") if kind == "grey" else ("red",))}


def test_odd_file_names_stay_on_their_line(here: Path) -> None:
    for name in ("two\nlines.png", "[red]b.png", "esc\x1b[31m.png", "sp ace.png", os.fsdecode(b"\xff\xfe.png")):
        write_image(here / "odd.png", half_red())
        (here / "odd.png").rename(here / name)
    done = in_shell("detect", ".", "--weights", "m.onnx", "--no-pictures")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 2 * 6 + 1
    assert "\x1b" not in done.stdout
    assert "[red]b.png" in done.stdout
    document = json.loads(in_shell("detect", ".", "--weights", "m.onnx", "--json").stdout)
    assert {str(here / image["name"]) for image in document["images"]} >= {str(here / "two\nlines.png")}


def test_a_library_that_is_missing_is_exit_5(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(*_: object) -> None:
        raise MissingExtraError("OpenCV needs libGL.so.1: apt-get install libgl1")

    monkeypatch.setattr("detkit.infer.predictor.decode_reduced", no_library)
    done = detect("photos")
    assert done.exit_code == 5
    assert "apt-get install libgl1" in the_error(done)


def test_the_default_model_is_the_shipped_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "weights_folder", lambda: here / "none")
    done = RUNNER.invoke(cli.app, ["detect", "photos"])
    assert done.exit_code == 4
    assert "no default model" in the_error(done)


def test_a_reader_that_leaves_is_no_error() -> None:
    line = f"{sys.executable} -m detkit detect photos --weights m.onnx --json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.stdout.strip() == "141"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_ctrl_c_is_130(here: Path) -> None:
    source = here / "photos" / "red.png"
    for index in range(3000):
        (here / "photos" / f"{index}.png").hardlink_to(source)
    command = [sys.executable, "-m", "detkit", "detect", "photos", "--weights", "m.onnx", "--out", "drawn"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not (here / "drawn").is_dir() or len(list((here / "drawn").iterdir())) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.strip() == "detkit: interrupted"
    pictures = list((here / "drawn").glob("*.png"))
    assert pictures
    assert all(cv2.imread(str(path)) is not None for path in pictures)  # whole files only


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("detkit.infer.predictor.decode_reduced", broken)
    done = RUNNER.invoke(cli.app, ["detect", "photos", "--weights", "m.onnx"])
    assert done.exit_code == 1
    assert isinstance(done.exception, ZeroDivisionError)


def test_an_error_line_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise DataError("first\nsecond\x1b[31m")

    monkeypatch.setattr("detkit.infer.predictor.decode_reduced", broken)
    done = detect("photos/red.png")
    assert "first second\\x1b[31m" in done.stderr
    assert "\x1b" not in done.stderr


def test_on_a_terminal_the_table_is_drawn_and_progress_shown(here: Path) -> None:
    pty = pytest.importorskip("pty")
    main, side = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "detkit", "detect", "photos", "--weights", "m.onnx"]
    process = subprocess.Popen(command, stdout=side, stderr=subprocess.PIPE, env=environment)
    os.close(side)
    shown = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    process.communicate(timeout=120)
    os.close(main)
    assert process.returncode == 0
    text = shown.decode()
    assert "photos/red.png" in text
    assert "─" in text


def test_brackets_in_help_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def paint(colour: Annotated[str, typer.Option(help="Which.  [default: the model's]")] = "") -> None:
        """Paint [a wall]."""

    module = types.ModuleType("detkit.cli.paint")
    module.paint = paint  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detkit.cli.paint", module)
    monkeypatch.setitem(cli.COMMANDS, "paint", ("paint:paint", "Paint."))
    shown = RUNNER.invoke(cli.app, ["paint", "--help"], env={"COLUMNS": "120"}).stdout
    assert "[default: the model's]" in shown
    assert "Paint [a wall]." in shown
