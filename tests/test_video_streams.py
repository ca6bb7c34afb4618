"""Streams: read over HTTP, as a list of JPEGs, over UDP; what does not answer or breaks off is said."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import cv2
import pytest

from detkit.errors import DataError
from detkit.infer import video_source
from detkit.infer.frames import Item
from detkit.infer.video import VideoReader
from detkit.infer.video_source import _refused, _stream_arguments
from tests.small_videos import make_video, number_of, picture

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server on this machine that gives every request the same answer; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def stream(url: str) -> Item:
    return Item(url, Path("stream"), "stream", url=url)


def sending(data: bytes, kind: str, length: int | None = None) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data) if length is None else length))
        request.end_headers()
        request.wfile.write(data)

    return answer


@pytest.fixture
def film(tmp_path: Path) -> bytes:
    return make_video(tmp_path / "a.mp4", 30, container_options={"movflags": "+faststart"}).read_bytes()


def test_a_video_over_http(film: bytes) -> None:
    with serving(sending(film, "video/mp4")) as url:
        reader = VideoReader(stream(f"{url}/a.mp4"), 4)
        frames = list(reader)
    assert [number_of(frame.image_rgb) for frame in frames] == list(range(30))
    assert (frames[0].index, frames[0].name) == (4, f"{url}/a.mp4")
    assert reader.ended().warning is None


def test_a_stream_that_breaks_off_gives_what_came_and_says_so(film: bytes) -> None:
    with serving(sending(film[: len(film) * 2 // 3], "video/mp4", len(film))) as url:
        reader = VideoReader(stream(f"{url}/a.mp4"), 0)
        frames = list(reader)
    assert 10 < len(frames) < 28
    assert f"off after frame {len(frames) - 1} " in (reader.ended().warning or "")


def test_a_camera_that_sends_jpegs() -> None:
    boundary = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
    encoded = [cv2.imencode(".jpg", picture(n))[1].tobytes() for n in range(12)]
    data = b"".join(boundary % (len(jpeg), jpeg) for jpeg in encoded)
    with serving(sending(data, "multipart/x-mixed-replace; boundary=next")) as url:
        reader = VideoReader(stream(f"{url}/camera"), 0)
        frames = list(reader)
    assert [number_of(frame.image_rgb) for frame in frames] == list(range(12))
    assert reader.info.duration_s is None  # it is live: nobody waits for it
    assert all(a.pts < b.pts for a, b in pairwise(frames))  # type: ignore[operator]


def test_what_cannot_be_opened_is_said_in_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/a.mp4", f"rtsp://127.0.0.1:{port}/a", "/dev/video987"):
        with pytest.raises(DataError, match="the stream cannot be opened; found") as error:
            VideoReader(stream(url), 0)
        assert "\n" not in str(error.value)


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_source, "OPEN_TIMEOUT_S", 0.4)
    done = threading.Event()
    with serving(lambda _: done.wait(20) and None) as url:
        try:
            with pytest.raises(DataError, match="found no answer in time"):
                VideoReader(stream(f"{url}/a.mp4"), 0)
        finally:
            done.set()


def test_a_stream_that_falls_silent_is_given_up(film: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_source, "READ_TIMEOUT_S", 0.4)
    done = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        sending(film[: len(film) * 2 // 3], "video/mp4", len(film))(request)
        done.wait(20)

    with serving(answer) as url:
        try:
            reader = VideoReader(stream(f"{url}/a.mp4"), 0)
            frames = list(reader)
        finally:
            done.set()
    assert frames
    warning = f"broke off after frame {len(frames) - 1} ({frames[-1].time_s:.2f} s): nothing came in time"
    assert reader.ended().warning == warning


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/dev/video2", {"file": "/dev/video2", "format": "v4l2"}),
        ("0", {"file": "/dev/video0", "format": "v4l2"}),
        ("http://a/b.m3u8", {"file": "http://a/b.m3u8"}),
    ],
)
def test_how_cameras_and_urls_are_opened(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: dict[str, object]
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert _stream_arguments(url) == expected


def test_rtsp_comes_over_tcp() -> None:
    assert _stream_arguments("rtsp://a/b")["container_options"] == {"rtsp_transport": "tcp"}


def test_a_refusal_does_not_repeat_the_password() -> None:
    item = Item("rtsp://***@camera/1", Path("camera"), "stream", url="rtsp://me:secret@camera/1")
    said = str(_refused(item, RuntimeError("cannot open rtsp://me:secret@camera/1: refused")))
    assert "secret" not in said
    assert "cannot open rtsp://***@camera/1: refused" in said
