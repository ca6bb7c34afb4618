"""Cameras and URLs as sources: what they open, what they are called, and that no password shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sources import stays_below

from detkit.errors import DataError, UsageError
from detkit.infer.addresses import masked, url_item
from detkit.infer.frames import Item
from detkit.infer.sources import find_items, read_photo_bytes


def relatives(found: tuple[Item, ...]) -> list[str]:
    return [item.relative.as_posix() for item in found]


def test_cameras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.platform", "linux")
    found = find_items(["0", "cam1", "cam:2", "/dev/video97", "cam0"])
    assert [(item.kind, item.name, item.url) for item in found] == [
        ("stream", "cam0", "/dev/video0"),
        ("stream", "cam1", "/dev/video1"),
        ("stream", "cam2", "/dev/video2"),
        ("stream", "cam97", "/dev/video97"),
    ]
    assert relatives(found) == ["cam0", "cam1", "cam2", "cam97"]
    monkeypatch.setattr("sys.platform", "darwin")
    assert find_items("cam1")[0].url == "1"
    for name in ("100", "cam", "camera1", "-1"):
        with pytest.raises(DataError, match="no such file"):
            find_items(name)


@pytest.mark.parametrize(
    ("url", "name", "relative"),
    [
        ("rtsp://192.168.1.5:554/ch/101", "rtsp://192.168.1.5:554/ch/101", "192-168-1-5-554-ch-101"),
        ("rtsp://admin:se@cret@h/a", "rtsp://***@h/a", "h-a"),
        ("rtsp://admin@h/a", "rtsp://***@h/a", "h-a"),
        ("http://h/v.cgi?user=me&pwd=x1&ch=2", "http://h/v.cgi?user=***&pwd=***&ch=2", "h-v-cgi-user-pwd-ch-2"),
        ("rtsp://h/user=me&pass=x1&ch=3", "rtsp://h/user=***&pass=***&ch=3", "h-user-pass-ch-3"),
        ("udp://@:1234", "udp://@:1234", "1234"),
        ("HTTPS://h/live.m3u8", "HTTPS://h/live.m3u8", "h-live-m3u8"),
        ("http://h/../../etc", "http://h/../../etc", "h-etc"),
    ],
)  # fmt: skip
def test_a_url_is_a_stream_whose_name_keeps_its_secrets(url: str, name: str, relative: str) -> None:
    assert find_items(url) == (Item(name, Path(relative), "stream", url=url),)


@pytest.mark.parametrize("url", ["s3://bucket/a.jpg", "file:///a.jpg", "http:///a.jpg", "rtsp://[::1", "http://h:x/a"])
def test_a_url_that_cannot_be_opened_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="URL"):
        find_items(url)


def test_a_slash_in_a_password_is_explained_and_not_shown() -> None:
    with pytest.raises(UsageError, match=r"^rtsp://\*\*\*@h/a: is no valid URL; expected %2F for a / in the password$"):
        find_items("rtsp://admin:se/cret@h/a")


@given(st.text(min_size=1, max_size=30), st.from_regex(r"[A-Z]{6}", fullmatch=True))
def test_no_password_shows_and_no_stream_leaves_the_results(tail: str, secret: str) -> None:
    for url in (
        f"rtsp://u:{secret}@h/{tail}",
        f"http://h/{tail}?password={secret}",
        f"http://h/a.jpg?token={secret}&{tail}",
    ):
        if secret in tail:
            continue
        assert secret not in masked(url)
        try:
            item = url_item(url)
        except UsageError as error:
            assert secret not in str(error)
            continue
        assert item is not None
        assert secret not in item.name + str(item.relative)
        assert stays_below(item.relative)
        assert len(item.relative.name) <= 110


class Photos(BaseHTTPRequestHandler):
    """/a.jpg for who knows the password, /moved.jpg on the way there, /cut.jpg broken off."""

    def do_GET(self) -> None:
        if self.path == "/moved.jpg":
            self.send_response(302)
            self.send_header("Location", "/open.jpg")
            self.end_headers()
            return
        if self.path == "/a.jpg" and self.headers["Authorization"] != "Basic bWU6cC93":  # me:p/w
            self.send_error(401)
            return
        self.send_response(200)
        self.send_header("Content-Length", "100" if self.path == "/cut.jpg" else "3")
        self.end_headers()
        self.wfile.write(b"abc")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Photos) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_the_url_of_a_photo_is_a_photo(server: str) -> None:
    (item,) = find_items(f"http://me:p%2Fw@{server}/a.jpg")
    assert (item.kind, item.name, item.relative) == ("photo", f"http://***@{server}/a.jpg", Path("a.jpg"))
    assert read_photo_bytes(item) == b"abc"
    assert read_photo_bytes(find_items(f"http://{server}/moved.jpg")[0]) == b"abc"
    with pytest.raises(DataError, match=r"cannot be fetched; found HTTP 401"):
        read_photo_bytes(find_items(f"http://me:wrong@{server}/a.jpg")[0])
    with pytest.raises(DataError, match=r"^http://127\.0\.0\.1:1/b\.jpg: cannot be fetched"):
        read_photo_bytes(find_items("http://127.0.0.1:1/b.jpg")[0])
