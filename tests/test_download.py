"""Downloads: whole and right, or nothing; broken off, they go on; whatever the server does, the error is one line."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest
from file_server import FileServer

from detkit.download import DownloadReport, download
from detkit.errors import RunError, WeightsError

CONTENT = bytes(range(256)) * 4096  # 1 MiB, four chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def fetch(
    server: FileServer, target: Path, sha256: str = SHA256, max_bytes: int = len(CONTENT)
) -> list[DownloadReport]:
    return list(download(server.url, target, sha256=sha256, max_bytes=max_bytes))


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8]])
@pytest.mark.parametrize("tells_length", [True, False])
def test_a_file_comes_whole_and_under_its_name(tmp_path: Path, sha256: str, tells_length: bool) -> None:
    target = tmp_path / "new" / "folder" / "model.pth"
    with FileServer(CONTENT, tells_length=tells_length).running() as server:
        reports = fetch(server, target, sha256)
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == ["model.pth"]
    assert [report.done_bytes for report in reports] == [262144, 524288, 786432, 1048576]
    assert {report.total_bytes for report in reports} == {len(CONTENT) if tells_length else None}
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_what_broke_off_goes_on(tmp_path: Path, ranges: bool) -> None:
    target = tmp_path / "model.pth"
    with FileServer(CONTENT, ranges=ranges, sends=400_000).running() as server:
        with pytest.raises(
            RunError, match="broke off; the same command goes on from there; found 400,000 of 1,048,576"
        ):
            fetch(server, target)
        assert left_in(tmp_path) == ["model.pth.part"]
        server.sends = None
        reports = fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert left_in(tmp_path) == ["model.pth"]
    assert server.asked == [None, "bytes=400000-"]
    assert {report.kept_bytes for report in reports} == {400_000 if ranges else 0}


@pytest.mark.parametrize("shifted", [0, 7])
def test_the_beginning_of_another_file_is_not_gone_on_with(tmp_path: Path, shifted: int) -> None:
    """The part left behind was of an older file, or the server sends another range than was asked for."""
    target = tmp_path / "model.pth"
    (tmp_path / "model.pth.part").write_bytes(b"old" * 1000 if not shifted else CONTENT[:3000])
    with FileServer(CONTENT, shifted=shifted).running() as server:
        reports = fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert server.asked == ["bytes=3000-", None]
    assert reports[-1].kept_bytes == 0
    assert left_in(tmp_path) == ["model.pth"]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"x"])
def test_a_part_that_is_whole_needs_no_server_and_a_longer_one_is_dropped(tmp_path: Path, part: bytes) -> None:
    (tmp_path / "model.pth.part").write_bytes(part)
    with FileServer(CONTENT).running() as server:
        fetch(server, tmp_path / "model.pth", max_bytes=2 * len(CONTENT))
    assert (tmp_path / "model.pth").read_bytes() == CONTENT
    assert server.asked == ([] if part == CONTENT else [f"bytes={len(part)}-", None])


@pytest.mark.parametrize("kept", [0, 1000])
def test_another_file_leaves_nothing(tmp_path: Path, kept: int) -> None:
    if kept:
        (tmp_path / "model.pth.part").write_bytes(CONTENT[:kept])
    with FileServer(CONTENT).running() as server, pytest.raises(WeightsError) as refused:
        fetch(server, tmp_path / "model.pth", "0" * 64)
    assert str(refused.value) == (
        f"{server.url}: this is another file than the list of models means; "
        f"found sha256 {SHA256[:12]}...; expected 000000000000..."
    )
    assert left_in(tmp_path) == []
    assert len(server.asked) == (2 if kept else 1)


@pytest.mark.parametrize("tells_length", [True, False])
def test_more_than_was_promised_is_refused(tmp_path: Path, tells_length: bool) -> None:
    said = r"is larger than the list of models says; found \d+; expected up to 300000"
    with FileServer(CONTENT, tells_length=tells_length).running() as server, pytest.raises(WeightsError, match=said):
        fetch(server, tmp_path / "model.pth", max_bytes=300_000)
    assert left_in(tmp_path) == []


def test_a_refusing_server_an_absent_one_and_a_wrong_address(tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    (tmp_path / "model.pth.part").write_bytes(CONTENT[:100])
    said = r"model\.pth: cannot be downloaded; found 404 Not Found"
    with FileServer(CONTENT, status=404).running() as server, pytest.raises(RunError, match=said):
        fetch(server, target)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/model.pth"
        with pytest.raises(RunError, match="cannot be reached; found Connection refused"):
            list(download(address, target, sha256=SHA256, max_bytes=10**9))
    for address in ("http://example.com/m.pth", "file:///etc/passwd", "ftp://example.com/m", "no address"):
        with pytest.raises(RunError, match="is no address to download from; expected https://"):
            list(download(address, target, sha256=SHA256, max_bytes=10**9))
    assert left_in(tmp_path) == ["model.pth.part"]  # to go on with


@pytest.mark.parametrize("moved_to", ["file:///etc/passwd", "http://example.com/m.pth", "ftp://example.com/m.pth"])
def test_a_server_cannot_lead_astray(tmp_path: Path, moved_to: str) -> None:
    with FileServer(CONTENT, status=302, moved_to=moved_to).running() as server, pytest.raises(RunError) as refused:
        fetch(server, tmp_path / "model.pth")
    assert "\n" not in str(refused.value)
    assert left_in(tmp_path) == []


def test_a_server_that_speaks_no_http(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x00\x01 nonsense\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(RunError, match="cannot be reached"):
            list(download(f"http://127.0.0.1:{listener.getsockname()[1]}/", tmp_path / "m", sha256=SHA256, max_bytes=9))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with FileServer(CONTENT).running() as server, pytest.raises(RunError, match="cannot be written"):
        fetch(server, tmp_path / "file" / "model.pth")
    assert server.asked == []
