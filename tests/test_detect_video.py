"""`detkit detect` on video: the copies keep frames, times and sound; parts, tracks, damage and mixed sources."""

from __future__ import annotations

import csv
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fake_model import CANVAS, CARD, card_with, write_fake_model
from jsonschema import Draft202012Validator
from mixed_files import photo_bytes
from numpy.typing import NDArray
from small_videos import MS, film_times, make_video, number_of, read, sound_packets
from typer.testing import CliRunner, Result

from detkit import cli
from detkit.engines import Outputs
from detkit.infer.records import SCHEMA_FILE

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model."""
    monkeypatch.chdir(tmp_path)
    write_fake_model(tmp_path / "m.onnx", card_with(fit="stretch"))
    return tmp_path


def detect(*arguments: str) -> Result:
    options = ["--weights", "m.onnx", "--backend", "onnxruntime", "--conf", "0.35"]
    result = RUNNER.invoke(cli.app, ["detect", *options, *arguments])
    if result.exit_code == 1:
        assert result.exception is not None
        raise result.exception
    return result


def records(file: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file, each as the schema wants it."""
    validator = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        validator.validate(line)
    return lines


def traits(path: Path) -> dict[str, Any]:
    """What a player is told of a film."""
    with av.open(str(path)) as container:
        film = container.streams.video[0]
        return {"fps": film.average_rate, "size": (film.width, film.height), "codec": film.codec_context.name}


def same_times(copy: Path, source: Path, within_s: float = 0.0) -> None:
    """Each frame of the copy is shown when that of the source is, both counted from the first."""
    ours, theirs = film_times(copy), film_times(source)
    assert len(ours) == len(theirs) > 0
    assert max(abs(a - ours[0] - (b - theirs[0])) for a, b in zip(ours, theirs, strict=True)) <= within_s


def test_frames_times_rate_and_sound_are_those_of_the_source(here: Path) -> None:
    make_video(here / "film.mp4", 40, fps=Fraction(30000, 1001), time_base=Fraction(1001, 30000), sounds=[("aac", 1.3)])
    done = detect("film.mp4", "--out", "out", "--jsonl", "all.jsonl")
    assert done.exit_code == 0, done.stderr
    same_times(here / "out/film.mp4", here / "film.mp4")
    assert traits(here / "out/film.mp4") == {"fps": Fraction(30000, 1001), "size": (64, 48), "codec": "h264"}
    assert sound_packets(here / "out/film.mp4") == sound_packets(here / "film.mp4")
    run, *frames, end = records(here / "all.jsonl")
    assert [one["frame"] for one in frames] == list(range(40))
    assert [one["time_s"] for one in frames] == [round(float(k * Fraction(1001, 30000)), 6) for k in range(40)]
    assert run["settings"]["every"] == 1
    assert (end["kind"], end["frames"], end["warning"]) == ("video", 40, None)
    assert end["duration_s"] == pytest.approx(40 * 1001 / 30000, abs=1e-6)
    assert (here / "out/detections.jsonl").read_bytes() == (here / "all.jsonl").read_bytes()


def test_variable_times_stay_what_they_are(here: Path) -> None:
    times = [0, 40, 80, 300, 310, 333, 700, 701, 1500, 1540]
    make_video(here / "film.mp4", times, time_base=MS)
    detect("film.mp4", "--out", "out")
    same_times(here / "out/film.mp4", here / "film.mp4")
    frames = [one for one in records(here / "out/detections.jsonl") if one["kind"] == "frame"]
    assert [one["time_s"] for one in frames] == [time / 1000 for time in times]


def test_a_turned_film_comes_out_upright(here: Path) -> None:
    make_video(here / "film.mp4", 6, turn=(90, False))
    detect("film.mp4", "--out", "out")
    assert traits(here / "out/film.mp4")["size"] == (48, 64)
    frames = [one for one in records(here / "out/detections.jsonl") if one["kind"] == "frame"]
    assert {(one["width"], one["height"]) for one in frames} == {(48, 64)}


def test_every_and_a_part_of_the_film(here: Path) -> None:
    make_video(here / "film.mp4", 100, sounds=[("aac", 4)])
    done = detect("film.mp4", "--out", "out", "--start", "0:01", "--end", "3", "--every", "4", "--conf", "0.99")
    assert done.exit_code == 0
    *frames, end = records(here / "out/detections.jsonl")[1:]
    assert [one["frame"] for one in frames] == list(range(25, 75, 4))
    assert [one["time_s"] for one in frames] == [k / 25 for k in range(25, 75, 4)]
    assert end["frames"] == 13
    copies, _ = read(here / "out/film.mp4")
    assert [number_of(frame.image_rgb) for frame in copies] == list(range(25, 75, 4))
    assert [frame.time_s for frame in copies] == [pytest.approx(k * 4 / 25) for k in range(13)]
    assert traits(here / "out/film.mp4")["fps"] == Fraction(25, 4)
    assert sound_packets(here / "out/film.mp4")[-1][0] <= 2.1  # the sound of the part, not of the film


def test_a_part_without_a_frame_is_a_warning(here: Path) -> None:
    make_video(here / "film.mp4", 10)
    done = detect("film.mp4", "--out", "out", "--start", "60")
    assert done.exit_code == 0
    assert "film.mp4: has no frame from 60 s on: its last one is at 0.36 s" in done.stderr
    assert not (here / "out/film.mp4").exists()


def test_a_film_that_is_cut_off_gives_all_frames_up_to_there(here: Path) -> None:
    make_video(here / "film.mkv", 60)
    data = (here / "film.mkv").read_bytes()
    (here / "film.mkv").write_bytes(data[: len(data) * 2 // 3])
    frames, reader = read(here / "film.mkv")
    assert 10 < len(frames) < 60
    done = detect("film.mkv", "--out", "out")
    assert done.exit_code == 0
    end = records(here / "out/detections.jsonl")[-1]
    assert end["frames"] == len(frames)
    assert end["warning"] == reader.ended().warning is not None
    assert f"detkit: warning: film.mkv: {end['warning']}" in done.stderr
    assert len(film_times(here / "out/film.mp4")) == len(frames)


def test_photos_and_films_in_one_run(here: Path) -> None:
    (here / "in/sub").mkdir(parents=True)
    make_video(here / "in/b.mp4", 5)
    make_video(here / "in/sub/b.mkv", 7)
    (here / "in/bad.mp4").write_bytes(b"no film")
    (here / "in/a.png").write_bytes(photo_bytes("photo.png", 0))
    (here / "in/c.jpg").write_bytes(photo_bytes("photo.jpg", 1))
    done = detect("in", "--out", "out", "--to", "pictures,videos,coco,yolo,voc,csv,crops")
    assert done.exit_code == 3
    kinds = [(one["kind"], one.get("name")) for one in records(here / "out/detections.jsonl")[1:]]
    assert [name for kind, name in kinds if kind != "frame"] == [
        "in/a.png", "in/b.mp4", "in/bad.mp4", "in/c.jpg", "in/sub/b.mkv",
    ]  # fmt: skip
    assert Counter(name for kind, name in kinds if kind == "frame") == {"in/b.mp4": 5, "in/sub/b.mkv": 7}
    assert {path.name for path in (here / "out").glob("*.*")} >= {"a.png", "b.mp4", "c.jpg"}
    assert len(film_times(here / "out/sub/b.mp4")) == 7
    assert (here / "out/labels/sub/b_000006.txt").is_file()
    assert not list((here / "out/labels").glob("bad*"))
    assert "2 photos and 12 frames" in done.stderr
    assert "pictures, videos, coco, yolo, voc, csv and crops: out" in done.stderr


def test_nothing_is_written_that_was_not_asked_for(here: Path) -> None:
    make_video(here / "film.mp4", 5)
    done = detect("film.mp4", "--json")
    document = json.loads(done.stdout)
    assert [one["kind"] for one in document["images"]] == ["frame"] * 5 + ["video"]
    assert sorted(path.name for path in here.iterdir()) == ["film.mp4", "m.onnx"]
    assert detect("film.mp4", "--no-pictures").stdout.splitlines()[0].split() == [
        "video", "class", "frames", "most", "at", "once",
    ]  # fmt: skip


# ---------------------------------------------------------------- tracks


class RedEngine:
    """Finds the red pixels of each canvas, as one box."""

    name, parallel, card = "red", 1, CARD

    def run(self, batch_rgb: NDArray[np.uint8]) -> Outputs:
        boxes = np.zeros((len(batch_rgb), 1, 4), np.float32)
        scores = np.zeros((len(batch_rgb), 1, 2), np.float32)
        for row, canvas in enumerate(batch_rgb):
            y, x = np.nonzero((canvas[:, :, 0] > 150) & (canvas[:, :, 1] < 100))
            if len(x):
                boxes[row, 0] = x.min(), y.min(), x.max() + 1, y.max() + 1
                scores[row, 0, 0] = 0.9
        return Outputs(boxes, scores, None)


def falling_square(path: Path, frames: int = 50) -> Path:
    """A red square that falls through the picture, 64 pixels in 50 frames."""
    with av.open(str(path), "w") as container:
        film: Any = container.add_stream("libx264", 25, {"preset": "ultrafast"}, width=CANVAS, height=CANVAS)
        film.codec_context.pix_fmt = "yuv420p"
        for number in range(frames):
            image = np.zeros((CANVAS, CANVAS, 3), np.uint8)
            image[number : number + 14, 24:40] = (255, 0, 0)
            container.mux(film.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(film.encode(None))
    return path


@pytest.fixture
def red_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackers", reason="tracking comes with the track extra")
    monkeypatch.setattr("detkit.infer.predictor.open_engine", lambda *_, **__: RedEngine())


@pytest.mark.usefixtures("red_engine")
def test_tracks_have_one_number_in_every_output_and_crossings_are_counted(here: Path) -> None:
    falling_square(here / "1.mp4")
    falling_square(here / "2.mp4")
    done = detect("1.mp4", "2.mp4", "--count", "gate=0%,60%,100%,60%", "--to", "videos,csv", "--out", "out")
    assert done.exit_code == 0, done.stderr
    lines = records(here / "out/detections.jsonl")
    for name in ("1.mp4", "2.mp4"):
        frames = [one for one in lines if one["kind"] == "frame" and one["name"] == name]
        ids = [found.get("track_id") for one in frames for found in one["detections"]]
        assert len(frames) == 50
        assert {number for number in ids if number is not None} == {1}  # each film counts from 1
        [end] = [one for one in lines if one["kind"] == "video" and one["name"] == name]
        assert end["counts"] == {"gate": {"red": {"in": 1, "out": 0}}}
        assert f"{name}: over gate: red 1 in, 0 out" in done.stderr
    rows = list(csv.DictReader((here / "out/detections.csv").open()))
    assert {row["track_id"] for row in rows if row["label"]} <= {"1", ""}
    assert next(line.split() for line in done.stdout.splitlines()[1:])[-1] == "1"  # tracks
    assert len(film_times(here / "out/1.mp4")) == 50


@pytest.mark.usefixtures("red_engine")
def test_a_killed_run_with_tracks_is_resumed_film_by_film(here: Path) -> None:
    falling_square(here / "1.mp4", 20)
    falling_square(here / "2.mp4", 20)
    arguments = ("1.mp4", "2.mp4", "--track", "--to", "videos", "--out", "out")
    detect(*arguments)
    whole = {path.name: path.read_bytes() for path in (here / "out").iterdir()}
    journal = here / "out/detections.jsonl"
    journal.write_bytes(b"".join(whole["detections.jsonl"].splitlines(keepends=True)[:30]))
    (here / "out/2.mp4").unlink()
    assert "1 of 2 are done" in detect(*arguments, "--resume").stderr
    assert {path.name: path.read_bytes() for path in (here / "out").iterdir()} == whole


# ---------------------------------------------------------------- real clips


def test_real_clips_keep_frames_times_and_sound(here: Path, shared_data: Path) -> None:
    folder = shared_data / "video"
    done = detect(
        str(folder / "asl-walk.mkv"), str(folder / "mot/FOD-01-LabelPliers.mp4"), "--end", "2", "--out", "out"
    )
    assert done.exit_code == 0, done.stderr
    lines = records(here / "out/detections.jsonl")
    assert [one["frames"] for one in lines if one["kind"] == "video"] == [60, 30]
    assert [len(film_times(here / "out" / name)) for name in ("asl-walk.mp4", "FOD-01-LabelPliers.mp4")] == [60, 30]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["car-detection.mp4", "bottle-detection.mp4", "asl-walk.mkv"])
def test_whole_real_clips(name: str, here: Path, shared_data: Path) -> None:
    source = shared_data / "video" / name
    copy = here / "out" / Path(name).with_suffix(".mp4").name
    assert detect(str(source), "--out", "out").exit_code == 0
    same_times(copy, source, within_s=0.001)
    assert traits(copy) == traits(source)
    with av.open(str(source)) as container:
        tracks = len(container.streams.audio)
    for track in range(tracks):
        assert sound_packets(copy, track) == sound_packets(source, track)
