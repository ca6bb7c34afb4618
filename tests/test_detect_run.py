"""Whole runs of `detkit detect` over mixed files: each done once, errors counted, and the same after being killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_model import card_with, write_fake_model
from mixed_files import BAD_KINDS, Mixed, make_mixed, photo_bytes
from typer.testing import CliRunner, Result

from detkit import cli
from detkit.infer.journal import read_journal

pytest.importorskip("PIL", reason="Pillow writes the CMYK photos and GIFs")

RUNNER = CliRunner()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
EVERYTHING = ("--to", "pictures,videos,coco,csv,yolo,voc,crops", "--out", "out")
FAST = 100
SLOW = 2000


class World:
    """Mixed files, a model, and one run over them that nothing interrupted."""

    def __init__(self, folder: Path, count: int, bad_every: int) -> None:
        self.folder = folder
        write_fake_model(folder / "m.onnx", card_with(fit="stretch"))
        self.mixed: Mixed = make_mixed(folder, count, bad_every)
        done = self.start("whole").communicate(timeout=900)
        self.talk = done[1]
        self.whole = tree(folder / "whole")

    def start(self, where: str, *more: str) -> subprocess.Popen[str]:
        """A run in a folder of its own, so that results name the same paths."""
        (self.folder / where).mkdir(exist_ok=True)
        options = ["--weights", "../m.onnx", "--conf", "0.4", "--backend", "onnxruntime"]
        command = [sys.executable, "-m", "detkit", "detect", *self.mixed.sources, *options, *EVERYTHING, *more]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder / where, env=ENVIRONMENT, **pipes)

    def run_killed(self, where: str, at_lines: list[int]) -> subprocess.Popen[str]:
        """A run that is killed whenever its journal has so many lines, and resumed to the end."""
        journal = self.folder / where / "out" / "detections.jsonl"
        for lines in at_lines:
            process = self.start(where, "--resume")
            while process.poll() is None and line_count(journal) < lines:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL, "it was through before it could be killed"
        last = self.start(where, "--resume")
        last.communicate(timeout=900)
        return last


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("mixed"), FAST, bad_every=10)


def line_count(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines_of(whole: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in whole["out/detections.jsonl"].splitlines()]


def check_whole(world: World) -> None:
    """Every good one done once, every bad one reported once, everything written."""
    mixed, records = world.mixed, lines_of(world.whole)
    assert Counter(one["name"] for one in records if one["kind"] == "photo") == Counter(dict.fromkeys(mixed.good, 1))
    assert Counter(one["name"] for one in records if one["kind"] == "error") == Counter(dict.fromkeys(mixed.bad, 1))
    assert {one["name"]: one["frames"] for one in records if one["kind"] == "video"} == mixed.frames
    frames = Counter(one["name"] for one in records if one["kind"] == "frame")
    assert frames == Counter(mixed.frames)
    for one in records:
        if one["kind"] == "photo" and (expected := mixed.good[one["name"]]) is not None:
            assert {found["class"] for found in one["detections"]} == {expected}, one
    pictures = [path for path in world.whole if path.startswith("out/") and "/crops/" not in path]
    written = [path for path in pictures if not path.endswith((".txt", ".xml", ".json", ".jsonl", ".csv", ".yaml"))]
    assert len(written) == len(mixed.good) + len(mixed.frames)
    *talk, error = world.talk.splitlines()
    assert sum(line.startswith("detkit: warning: ") for line in talk) == len(mixed.bad)
    total = len(mixed.good) + len(mixed.bad) + len(mixed.frames)
    assert error == f"detkit: error: {len(mixed.bad)} of {total} items could not be read"
    assert not [path for path in world.whole if ".part" in path]


def test_every_file_is_done_once_and_errors_are_counted(world: World) -> None:
    assert len(world.mixed.bad) == FAST // 10 + 4
    assert {Path(name).name.partition("-")[2] for name in world.mixed.bad} >= set(BAD_KINDS)
    check_whole(world)


def test_label_files_agree_with_the_records(world: World) -> None:
    records = [one for one in lines_of(world.whole) if "detections" in one]
    coco = json.loads(world.whole["out/coco.json"])
    assert len(coco["images"]) == len(records)
    assert len(coco["annotations"]) == sum(len(one["detections"]) for one in records)
    rows = world.whole["out/detections.csv"].decode().splitlines()
    assert len(rows) - 1 == sum(max(1, len(one["detections"])) for one in records)
    labels = {path: text for path, text in world.whole.items() if path.startswith("out/labels/")}
    assert len(labels) == len(records)
    assert sum(text.count(b"\n") for text in labels.values()) == len(coco["annotations"])
    assert sum(path.startswith("out/crops/") for path in world.whole) == len(coco["annotations"])


def test_killed_and_resumed_it_is_the_same_to_the_byte(world: World) -> None:
    end = line_count(world.folder / "whole/out/detections.jsonl")
    last = world.run_killed("killed", [random.randrange(2, end // 2)])
    assert last.returncode == 3
    again = tree(world.folder / "killed")
    assert {path for path in world.whole | again if world.whole.get(path) != again.get(path)} == set()


def test_a_finished_run_is_not_done_again(world: World) -> None:
    process = world.start("whole", "--resume")
    table, talk = process.communicate(timeout=120)
    assert process.returncode == 3
    total = len(world.mixed.good) + len(world.mixed.bad) + len(world.mixed.frames)
    first, *_, error = talk.splitlines()
    assert first == f"out/detections.jsonl: {total} of {total} are done; nothing is left to do"
    assert error == world.talk.splitlines()[-1]
    assert table.count("(unreadable)") == len(world.mixed.bad)  # the table is that of the whole run
    assert tree(world.folder / "whole") == world.whole


@pytest.mark.slow
def test_2000_files_killed_three_times(tmp_path: Path) -> None:
    world = World(tmp_path, SLOW, bad_every=100)
    check_whole(world)
    assert len(world.mixed.bad) == SLOW // 100 + 4
    last = world.run_killed("killed", sorted(random.sample(range(2, SLOW - 200), 3)))
    assert last.returncode == 3
    again = tree(tmp_path / "killed")
    assert {path for path in world.whole | again if world.whole.get(path) != again.get(path)} == set()


# ---------------------------------------------------------------- --resume, in this process


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and six small photos, of which the fourth cannot be read."""
    monkeypatch.chdir(tmp_path)
    write_fake_model(tmp_path / "m.onnx", card_with(fit="stretch"))
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.png").write_bytes(photo_bytes("photo.png", number))
    (tmp_path / "photos" / "3.png").write_bytes(b"")
    return tmp_path


def detect(*arguments: str) -> Result:
    result = RUNNER.invoke(cli.app, ["detect", "--weights", "m.onnx", "--backend", "onnxruntime", *arguments])
    if result.exit_code == 1:
        assert result.exception is not None
        raise result.exception
    return result


def cut_after(journal: Path, lines: int, rest: bytes = b"") -> None:
    """As a killed run leaves it: so many lines, and the start of one more."""
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:lines]) + rest)


def test_json_of_a_resumed_run_holds_all_of_it(here: Path) -> None:
    whole = json.loads(detect("photos", "--out", "out", "--json").stdout)
    cut_after(here / "out/detections.jsonl", 3, b'{"version"')
    done = detect("photos", "--out", "out", "--json", "--resume")
    assert json.loads(done.stdout) == whole
    assert done.exit_code == 3
    assert "2 of 6 are done; going on with the rest" in done.stderr
    assert done.stderr.splitlines()[-1] == "detkit: error: 1 of 6 photos could not be read"


def test_jsonl_alone_is_resumed(here: Path) -> None:
    detect("photos", "--jsonl", "all.jsonl")
    whole = (here / "all.jsonl").read_bytes()
    cut_after(here / "all.jsonl", 5)
    assert detect("photos", "--jsonl", "all.jsonl", "--resume").exit_code == 3
    assert (here / "all.jsonl").read_bytes() == whole
    assert not (here / "runs").exists()


def test_a_second_file_of_records_gets_those_of_before_too(here: Path) -> None:
    detect("photos", "--out", "out", "--to", "csv", "--jsonl", "more/all.jsonl")
    whole = (here / "more/all.jsonl").read_bytes()
    assert whole == (here / "out/detections.jsonl").read_bytes()
    cut_after(here / "out/detections.jsonl", 4)
    (here / "more/all.jsonl").unlink()
    detect("photos", "--out", "out", "--to", "csv", "--jsonl", "more/all.jsonl", "--resume")
    assert (here / "more/all.jsonl").read_bytes() == whole


def test_resume_without_an_earlier_run_starts_one(here: Path) -> None:
    done = detect("photos", "--out", "out", "--resume")
    assert "no earlier run to go on with; starting from the beginning" in done.stderr
    assert line_count(here / "out/detections.jsonl") == 7


def test_resume_removes_what_a_killed_run_left_half_written(here: Path) -> None:
    detect("photos", "--out", "out")
    cut_after(here / "out/detections.jsonl", 2)
    left = here / "out" / f".{'0' * 32}.part.png"
    left.write_bytes(b"half")
    detect("photos", "--out", "out", "--resume")
    assert not left.exists()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (("--conf", "0.9"), "conf 0.9"),
        (("--nms", "soft"), "nms soft"),
        (("--size", "32"), "size [32, 32]"),
        (("--classes", "red"), 'classes ["red"]'),
        (("--to", "csv"), 'to ["csv"]'),
        (("--batch", "2"), "batch 2"),
    ],
)
def test_resume_with_other_settings_is_one_line_that_names_them(here: Path, other: tuple[str, str], named: str) -> None:
    write_fake_model(here / "m.onnx", card_with(fit="stretch", task="yolo"))
    detect("photos", "--out", "out")
    before = tree(here / "out")
    done = detect("photos", "--out", "out", "--resume", *other)
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert "was made with other settings, so it cannot be resumed with these" in line
    assert f"expected {named}" in line
    assert tree(here / "out") == before


def test_resume_with_another_model_names_it(here: Path) -> None:
    detect("photos", "--out", "out")
    write_fake_model(here / "m.onnx", card_with(fit="letterbox"))
    done = detect("photos", "--out", "out", "--resume")
    assert done.exit_code == 2
    assert "found model.sha256 " in done.stderr


def test_shards_together_are_the_whole_run(here: Path) -> None:
    detect("photos", "--out", "whole", "--to", "yolo,csv")
    for number in (2, 1, 3):
        detect("photos", "--out", "out", "--to", "yolo,csv", "--shard", f"{number}/3")
    records = [json.loads(line) for k in (1, 2, 3) for line in (here / f"out/detections-{k}-of-3.jsonl").open()]
    of_whole = [json.loads(line) for line in (here / "whole/detections.jsonl").open()]
    key = lambda one: one["name"]  # noqa: E731
    assert sorted((one for one in records if one["kind"] != "run"), key=key) == of_whole[1:]
    labels = {path: data for path, data in tree(here / "whole").items() if path.startswith("labels")}
    assert {path: data for path, data in tree(here / "out").items() if path.startswith("labels")} == labels
    cut_after(here / "out/detections-2-of-3.jsonl", 2)
    assert (
        "1 of 2 are done" in detect("photos", "--out", "out", "--to", "yolo,csv", "--shard", "2/3", "--resume").stderr
    )


def test_a_photo_is_looked_at_without_what_it_does_not_need(here: Path) -> None:
    heavy = ("av", "trackers", "scipy", "torch", "openvino", "ray", "matplotlib", "PIL", "rich.table")
    script = f"""
import sys
from detkit import cli
sys.argv = ["detkit", "detect", "photos/0.png", "--weights", "m.onnx", "--json", "--backend", "onnxruntime"]
try:
    cli.main()
except SystemExit as left:
    assert left.code == 0
met = [name for name in {heavy!r} if name in sys.modules]
print(met, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.stderr.splitlines()[-1] == "[]"


def test_pictures_show_the_boxes(here: Path) -> None:
    detect("photos/0.png", "--out", "out")
    before = cv2.imread(str(here / "photos/0.png"))
    after = cv2.imread(str(here / "out/0.png"))
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    assert read_journal(here / "out/detections.jsonl") is not None
