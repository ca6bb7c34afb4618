"""`detkit detect` when things go wrong: one line, the right exit code, and only whole files left."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
from fake_model import card_with, write_fake_model
from mixed_files import photo_bytes
from small_videos import make_video
from typer.testing import CliRunner, Result

from detkit import cli
from detkit.infer.journal import read_records

RUNNER = CliRunner()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and four small photos."""
    monkeypatch.chdir(tmp_path)
    write_fake_model(tmp_path / "m.onnx", card_with(fit="stretch"))
    (tmp_path / "photos").mkdir()
    for number in range(4):
        (tmp_path / "photos" / f"{number}.png").write_bytes(photo_bytes("photo.png", number))
    return tmp_path


def detect(*arguments: str) -> Result:
    result = RUNNER.invoke(cli.app, ["detect", "--weights", "m.onnx", "--backend", "onnxruntime", *arguments])
    if result.exit_code == 1:
        assert result.exception is not None
        raise result.exception
    return result


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "detkit", "detect", "--weights", "m.onnx", "--backend", "onnxruntime", *arguments]


def the_error(done: Result | subprocess.CompletedProcess[str]) -> str:
    """The only line on stderr that is an error, which is the last."""
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("detkit: error: ")] == lines[-1:], done.stderr
    assert "Traceback" not in done.stderr
    return lines[-1].removeprefix("detkit: error: ")


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part" in path.name]


# ---------------------------------------------------------------- command lines that are wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--start soon", "--start; found 'soon'; expected seconds (90)"),
        ("--start 1:75", "--start; found '1:75'"),
        ("--start -5", "--start; found '-5'"),
        ("--end nan", "--end; found 'nan'"),
        ("--end 0", "a part of a video ends after its start; found 0 to 0 s"),
        ("--start 5 --end 2", "a part of a video ends after its start; found 5 to 2 s"),
        ("--shard 0/2", "--shard; found '0/2'; expected I/N with I from 1 to N"),
        ("--shard 3/2", "--shard; found '3/2'"),
        ("--shard 2", "--shard; found '2'"),
        ("--tile 0", "side of a tile; found 0; expected 32 px or more"),
        ("--tile 64 --overlap 1", "overlap of tiles; found 1.0; expected 0 to 0.9"),
        ("--overlap 0.5", "--overlap is for tiles; give --tile too"),
        ("--size 100", "size; found 100; expected a multiple of 32 up to 4096, such as 96"),
        ("--size 1000000", "size; found 1000000"),
        ("--classes red,bleu", "the model knows no class 'bleu'; did you mean 'blue'?; expected red, blue"),
        ("--classes ,", "no class is named"),
        ("--count 1,2,3", "--count needs a line; found '1,2,3'"),
        ("--count 5,5,5,5", "--count needs two different points"),
        ("--count 0%,0,9,9", "--count mixes pixels and percent"),
        ("--nms hard", "'hard' is not one of 'class', 'agnostic', 'soft'"),
        ("--batch 0", "'--batch'"),
        ("--every 0", "'--every'"),
        ("--conf nan", "conf of a prediction; found nan"),
        ("--conf 0.3 --thresholds t.toml", "--conf and --thresholds contradict each other"),
        ("--crop-margin 0.1", "--crop-margin is for crops; give --to crops too"),
        ("--yolo-scores", "--yolo-scores is for yolo; give --to yolo too"),
        ("--to jpg", "--to; found 'jpg'; expected some of pictures,videos,coco,csv,yolo,voc,crops"),
        ("--jsonl - --json", "--json and --jsonl - both write to standard output"),
        ("--no-pictures --resume", "--resume goes on with an --out folder or a --jsonl file"),
        ("--track --resume", "--track follows objects from photo to photo, which --resume would break"),
        ("--track --shard 1/2", "which --shard would break"),
    ],
)
def test_a_wrong_option_is_exit_2_and_touches_nothing(arguments: str, said: str, here: Path) -> None:
    if "--track" in arguments or "--count 0" in arguments:
        pytest.importorskip("trackers")
    before = sorted(here.rglob("*"))
    done = detect("photos", *arguments.split())
    assert done.exit_code == 2, done.stderr
    assert said in the_error(done)
    assert done.stdout == ""
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--thresholds missing.toml", "missing.toml: cannot be read"),
        ("--thresholds photos", "photos: cannot be read"),
        ("--thresholds photos/0.png", "photos/0.png: is not UTF-8 text"),
    ],
)
def test_thresholds_that_cannot_be_read_are_exit_3(arguments: str, said: str) -> None:
    done = detect("photos", *arguments.split())
    assert done.exit_code == 3
    assert said in the_error(done)


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    done = detect("photos", "--show")
    assert done.exit_code == 2
    assert "--show needs a display" in the_error(done)


def test_tracking_without_its_extra_is_exit_5(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    before = sorted(here.rglob("*"))
    done = detect("photos", "--track")
    assert done.exit_code == 5
    assert 'pip install "detkit-cv[track]"' in the_error(done)
    assert sorted(here.rglob("*")) == before


# ---------------------------------------------------------------- sources that are odd


def test_strict_stops_at_the_first_that_cannot_be_read(here: Path) -> None:
    (here / "photos/1.png").write_bytes(b"")
    (here / "photos/2.png").write_bytes(b"")
    done = detect("photos", "--strict", "--out", "out")
    assert done.exit_code == 3
    assert the_error(done).startswith("photos/1.png: is empty")
    assert [one["kind"] for one in read_records(here / "out/detections.jsonl")] == ["run", "photo"]
    (here / "photos/1.png").write_bytes(photo_bytes("photo.png", 1))
    (here / "photos/2.png").write_bytes(photo_bytes("photo.png", 2))
    assert detect("photos", "--strict", "--out", "out", "--resume").exit_code == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_pipes_sockets_devices_and_circles_in_a_folder_are_no_trap(here: Path) -> None:
    os.mkfifo(here / "photos/a-pipe.jpg")
    os.mkfifo(here / "photos/b-pipe.mp4")
    os.mkfifo(here / "photos/c-pipe.ts")
    (here / "photos/d-zero.jpg").symlink_to("/dev/zero")
    (here / "photos/e-circle.jpg").symlink_to("e-circle.jpg")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("photos/f-socket.jpg")
        done = detect("photos", "--out", "out")
    assert done.exit_code == 3
    assert the_error(done) == "6 of 10 items could not be read"
    assert done.stdout.count("(unreadable)") == 6


def test_a_folder_that_may_not_be_listed_is_reported_in_its_place(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1 shut", "9 open"):
        (here / "photos" / name).mkdir()
    (here / "photos/9 open/late.png").write_bytes(photo_bytes("photo.png", 0))
    real = os.scandir

    def scandir(path: Any) -> Any:
        if os.fspath(path).endswith("1 shut"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    done = detect("photos", "--out", "out")
    assert done.exit_code == 3
    assert "photos/1 shut: cannot be listed: Permission denied" in done.stderr
    assert the_error(done) == "1 of 6 photos could not be read"
    (lone := here / "photos/1 shut").chmod(0)
    done = detect(str(lone))  # named by itself, it is the whole run
    lone.chmod(0o755)
    assert done.exit_code == 3
    assert "cannot be listed" in the_error(done)


def test_a_missing_file_that_a_list_names_twice_is_two_errors_resumed_or_not(here: Path) -> None:
    (here / "list.txt").write_text("photos/0.png\nmissing.png\nphotos/1.png\nmissing.png\n")
    done = detect("list.txt", "--out", "out", "--to", "csv")
    assert the_error(done) == "2 of 4 photos could not be read"
    journal = here / "out/detections.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    again = detect("list.txt", "--out", "out", "--to", "csv", "--resume")
    assert the_error(again) == "2 of 4 photos could not be read"
    assert journal.read_bytes() == whole


def test_a_file_of_somebody_else_is_not_replaced_by_records(here: Path) -> None:
    (here / "list.txt").write_text("photos/0.png\n")
    model = (here / "m.onnx").read_bytes()
    for file in ("list.txt", "m.onnx"):
        done = detect("list.txt", "--jsonl", file)
        assert done.exit_code == 2
        assert the_error(done) == f"{file}: is there already and holds no results of detkit; give another file"
    assert (here / "list.txt").read_text() == "photos/0.png\n"
    assert (here / "m.onnx").read_bytes() == model
    (here / "empty.jsonl").touch()
    assert detect("list.txt", "--jsonl", "empty.jsonl").exit_code == 0
    assert detect("list.txt", "--jsonl", "empty.jsonl").exit_code == 0  # results may be replaced by results


# ---------------------------------------------------------------- disks that are full, readers that leave


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("how", [["--json"], ["--jsonl", "-"], ["--no-pictures"]])
def test_stdout_on_a_full_disk_is_exit_6(how: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        pipes: dict[str, Any] = {"stdout": full, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
        done = subprocess.run(command("photos", *how), check=False, **pipes)
    assert done.returncode == 6
    assert the_error(done) == "stdout: cannot be written; found No space left on device"


def full_disk(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("kinds", "broken"),
    [
        ("pictures", "detkit.images.Path.write_bytes"),
        ("yolo", "detkit.infer.sinks.yolo.Path.write_text"),
        ("coco", "detkit.infer.sinks.coco.json_bytes"),
        ("csv", "detkit.infer.sinks.csv._rows"),
    ],
)
def test_a_full_disk_is_exit_6_and_leaves_whole_files(
    kinds: str, broken: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = broken.replace("detkit.images.Path", "pathlib.Path").replace(
        "detkit.infer.sinks.yolo.Path", "pathlib.Path"
    )
    with monkeypatch.context() as patched:
        patched.setattr(target, full_disk)
        done = detect("photos", "--out", "out", "--to", kinds)
    assert done.exit_code == 6
    assert "cannot be written; found No space left on device" in the_error(done)
    assert not half_written(here)
    assert detect("photos", "--out", "out", "--to", kinds, "--resume").exit_code == 0


def test_a_video_on_a_full_disk_is_exit_6_and_leaves_no_half_video(here: Path) -> None:
    resource = pytest.importorskip("resource")
    make_video(here / "film.mp4", 200, size_hw=(96, 128))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    pipes: dict[str, Any] = {"capture_output": True, "text": True, "env": ENVIRONMENT, "preexec_fn": small_files}
    done = subprocess.run(command("film.mp4", "--out", "out", "--jsonl", "-"), check=False, **pipes)
    assert done.returncode == 6, done.stderr
    assert "cannot be written; found File too large" in the_error(done)
    assert sorted(path.name for path in (here / "out").iterdir()) == ["detections.jsonl"]
    for line in (here / "out/detections.jsonl").read_bytes().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    ("how", "reader"),
    [("--jsonl -", "head -c 100"), ("--json", "head -c 100"), ("--no-pictures", "true")],  # a table fits into the pipe
)
def test_a_reader_that_has_enough_is_exit_141(how: str, reader: str, here: Path) -> None:
    for number in range(4, 400):
        (here / f"photos/{number}.png").hardlink_to(here / "photos/0.png")
    line = " ".join(command("photos", how)) + f" | {reader} | wc -l; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.stdout.split()[-1] == "141"
    assert "Traceback" not in done.stderr
    assert "rror" not in done.stderr


# ---------------------------------------------------------------- Ctrl-C


def interrupt(process: subprocess.Popen[str], when: Callable[[], bool]) -> str:
    """Press Ctrl-C when something is so; what was said on stderr."""
    while not when():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=120)[1]


def test_ctrl_c_in_a_video_leaves_no_half_video(here: Path) -> None:
    (here / "films").mkdir()
    make_video(here / "films/1 short.mp4", 5)
    make_video(here / "films/2 long.mp4", 3000, options={"preset": "ultrafast", "g": "250"})
    journal = here / "out/detections.jsonl"
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    process = subprocess.Popen(command("films", "--out", "out"), **pipes)
    said = interrupt(process, lambda: journal.exists() and b"2 long" in journal.read_bytes())
    assert process.returncode == 130
    assert said.strip() == "detkit: interrupted"
    assert sorted(path.name for path in (here / "out").iterdir()) == ["1 short.mp4", "detections.jsonl"]
    records = [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert [one["name"] for one in records if one["kind"] == "video"] == ["films/1 short.mp4"]
    assert 0 < sum(one.get("name") == "films/2 long.mp4" for one in records) < 3000


def test_pictures_stay_whole_whatever_ends_the_run(here: Path) -> None:
    for number in range(4, 3000):
        (here / f"photos/{number}.png").hardlink_to(here / "photos/0.png")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    process = subprocess.Popen(command("photos", "--out", "out", "--to", "pictures,yolo,crops"), **pipes)
    interrupt(process, lambda: (here / "out/crops/red").exists())
    assert process.returncode == 130
    assert not half_written(here)
    names = [one["name"] for one in read_records(here / "out/detections.jsonl") if one["kind"] == "photo"]
    for name in names:  # what the journal calls done is there
        picture = cv2.imread(str(here / "out" / Path(name).name))
        assert isinstance(picture, np.ndarray)
        assert (here / "out/labels" / Path(name).with_suffix(".txt").name).stat().st_size > 0
