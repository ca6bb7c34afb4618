"""Several live streams at once: one engine, each in order, what gave way is counted, and Ctrl-C is a good end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_model import card_with, write_fake_model
from jsonschema import Draft202012Validator
from small_videos import film_times, number_of, picture, read
from typer.testing import CliRunner

from detkit import cli
from detkit.infer import predictor as predictor_module
from detkit.infer.frames import Ended, Frame, Item, Unreadable, VideoInfo
from detkit.infer.live import Arrived, LiveStreams
from detkit.infer.records import SCHEMA_FILE

CAMERAS = 4
SENT = 20
PART = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
LIVE = VideoInfo((4, 6), Fraction(25), Fraction(1, 25))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_fake_model(tmp_path / "m.onnx", card_with(fit="stretch"))
    return tmp_path


@contextmanager
def cameras(count: int | None) -> Iterator[list[str]]:
    """Four cameras that send pictures which tell their numbers, `count` of them or until they are left; their URLs."""
    jpegs = [cv2.imencode(".jpg", picture(number))[1].tobytes() for number in range(1 << 6)]
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            sent = 0
            try:
                while not over.is_set() and sent != count:
                    jpeg = jpegs[sent % len(jpegs)]
                    self.wfile.write(PART % (len(jpeg), jpeg))
                    sent += 1
                    if count is None:
                        over.wait(0.01)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield [f"http://127.0.0.1:{server.server_address[1]}/cam{number}" for number in range(CAMERAS)]
    finally:
        over.set()
        server.shutdown()
        server.server_close()


def check_records(lines: list[dict[str, Any]], urls: list[str], out: Path) -> dict[str, dict[str, Any]]:
    """Each stream in its order, with an end that says as many frames as there are lines and pictures; the ends."""
    validator = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    for line in lines:
        validator.validate(line)
    ends = {one["name"]: one for one in lines if one["kind"] == "video"}
    assert set(ends) == set(urls)
    for url, end in ends.items():
        numbers = [one["frame"] for one in lines if one["kind"] == "frame" and one["name"] == url]
        assert numbers == sorted(set(numbers))
        assert end["frames"] == len(numbers) > 0
        assert lines.index(end) > max(k for k, one in enumerate(lines) if one.get("name") == url and "frame" in one)
        [film] = out.glob(f"*{url[-4:]}.mp4")
        assert len(film_times(film)) == len(numbers)
        shown = [number_of(frame.image_rgb) for frame in read(film)[0]]
        assert shown == [number % (1 << 6) for number in numbers]
    return ends


def test_four_streams_share_one_engine(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    real = predictor_module.open_engine
    monkeypatch.setattr(predictor_module, "open_engine", lambda *a, **k: opened.append(a) or real(*a, **k))
    with cameras(SENT) as urls:
        options = ["--weights", "m.onnx", "--backend", "onnxruntime", "--conf", "0.99", "--out", "out"]
        done = CliRunner().invoke(cli.app, ["detect", *urls, *options])
    assert done.exit_code == 0, done.stderr
    assert len(opened) == 1
    lines = [json.loads(line) for line in (here / "out/detections.jsonl").read_text().splitlines()]
    ends = check_records(lines, urls, here / "out")
    for end in ends.values():
        assert end["frames"] + end.get("dropped", 0) == SENT
        if end.get("dropped"):
            assert f"{end['name']}: {end['dropped']} frames came faster" in done.stderr


@pytest.mark.parametrize("how", ["--jsonl", "--json"])
def test_ctrl_c_ends_streams_in_good_order(how: str, here: Path) -> None:
    journal = here / "out/detections.jsonl"
    with cameras(None) as urls:
        options = ["--weights", "m.onnx", "--backend", "onnxruntime", "--conf", "0.99", "--out", "out", how]
        command = [
            sys.executable,
            "-m",
            "detkit",
            "detect",
            *urls,
            *options,
            *(["all.jsonl"] if how != "--json" else []),
        ]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
        process = subprocess.Popen(command, **pipes)
        while not journal.exists() or any(journal.read_text().count(f'"{url}"') < 5 for url in urls):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        shown, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "detkit: interrupted"
    assert "objects in" in said  # what was found by then is printed
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    check_records(lines, urls, here / "out")
    assert not [path for path in (here / "out").iterdir() if ".part" in path.name]
    if how == "--json":
        assert json.loads(shown)["images"] == lines[1:]
    else:
        assert (here / "all.jsonl").read_bytes() == journal.read_bytes()
        assert sorted(line.split()[0] for line in shown.splitlines()[1:]) == sorted(urls)


# ---------------------------------------------------------------- without a network


class Camera:
    """A stream that gives a frame whenever it is told to."""

    def __init__(self, item: Item, index: int, info: VideoInfo = LIVE) -> None:
        self.item, self.index, self.info, self.given = item, index, info, 0
        self.go, self.gave = threading.Semaphore(0), threading.Semaphore(0)
        self.is_over = False

    def __iter__(self) -> Iterator[Frame]:
        while True:
            self.go.acquire()
            if self.is_over:
                return
            image, number = np.zeros((4, 6, 3), np.uint8), self.given
            self.given += 1
            yield Frame(image, self.index, number / 25, self.item.name, self.item, number, number, self.info)
            self.gave.release()  # the frame before this line lies in its slot

    def send(self, count: int) -> None:
        for _ in range(count):
            self.go.release()
            self.gave.acquire()

    def end(self) -> None:
        self.is_over = True
        self.go.release()

    def ended(self) -> Ended:
        return Ended(self.item.name, self.index, self.item, self.given, "broke off")


def opened(count: int, leave: threading.Event | None = None) -> tuple[LiveStreams, list[Camera]]:
    items = [(index, Item(f"cam{index}", Path(f"cam{index}"), "stream")) for index in range(count)]
    made = [Camera(item, index) for index, item in items]
    return LiveStreams(items, lambda item, index: made[index], leave), made


def described(arrived: list[Arrived]) -> list[str]:
    return [
        f"{one.name} {one.number}"
        if isinstance(one, Frame)
        else f"{one.name} ended {one.frames} + {one.dropped}, {one.warning}"
        if isinstance(one, Ended)
        else f"{one.name} unreadable"
        for one in arrived
    ]


def test_the_newest_picture_of_each_comes_and_those_before_it_are_counted() -> None:
    streams, (first, second) = opened(2)
    first.send(3)
    second.send(1)
    arriving = iter(streams)
    assert described(next(arriving)) == ["cam0 2", "cam1 0"]
    first.send(1)
    assert described(next(arriving)) == ["cam0 3"]
    first.end()
    assert described(next(arriving)) == ["cam0 ended 2 + 2, broke off"]
    second.end()
    assert described(next(arriving)) == ["cam1 ended 1 + 0, broke off"]
    assert list(arriving) == []


def test_whoever_leaves_gets_what_is_there_and_every_end() -> None:
    leave = threading.Event()
    streams, (first, second) = opened(2, leave)
    first.send(2)
    arriving = iter(streams)
    assert described(next(arriving)) == ["cam0 1"]
    first.send(3)
    leave.set()
    assert [described(arrived) for arrived in arriving] == [
        ["cam0 4", "cam1 ended 0 + 0, None"],
        ["cam0 ended 2 + 3, None"],
    ]
    first.go.release()  # what comes later is not taken any more
    second.end()
    assert list(streams) == []


def test_a_stream_that_cannot_be_opened_is_told_and_the_others_go_on() -> None:
    from detkit.errors import DataError

    items = [(index, Item(f"cam{index}", Path(f"cam{index}"), "stream")) for index in range(2)]
    good = Camera(items[1][1], 1)

    def open_video(item: Item, index: int) -> Camera:
        if index == 0:
            raise DataError("no such camera", file=item.name)
        return good

    arriving = iter(LiveStreams(items, open_video))
    [refused] = next(arriving)
    assert isinstance(refused, Unreadable)
    good.send(1)
    assert described(next(arriving)) == ["cam1 0"]
    good.end()
    assert described(next(arriving)) == ["cam1 ended 1 + 0, broke off"]
    assert list(arriving) == []


def test_a_stream_with_an_end_waits_and_loses_nothing() -> None:
    item = Item("http://a/film.mp4", Path("film"), "stream")
    film = Camera(item, 0, VideoInfo((4, 6), Fraction(25), Fraction(1, 25), duration_s=0.2))
    for _ in range(5):
        film.go.release()
    arriving = iter(LiveStreams([(0, item)], lambda *_: film))
    assert [described(next(arriving)) for _ in range(5)] == [[f"{item.name} {number}"] for number in range(5)]
    film.end()
    assert described(next(arriving)) == [f"{item.name} ended 5 + 0, broke off"]
