"""Photos in zip and tar archives: read in place, hostile names and damage refused, by several threads."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkit.errors import DataError
from detkit.infer import archive_reader, archives
from detkit.infer.archive_reader import ArchiveReader
from detkit.infer.archives import find_members, safe_relative
from detkit.infer.frames import Item
from detkit.infer.refused import Refused
from detkit.infer.sources import find_items, read_photo_bytes

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
FILES = {"b/10.jpg": b"ten", "b/2.PNG": b"two", "notes.txt": b"no", ".hidden/1.jpg": b"no", "__MACOSX/._2.jpg": b"no",
         "in.zip": b"PK", "a.jpg": b"a" * 70_000}  # fmt: skip
EVIL = (
    "../x.jpg",
    "/etc/x.jpg",
    "a/../../x.jpg",
    "C:\\x.jpg",
    "..\\x.jpg",
    "\\\\host\\x.jpg",
    "a/C:/x.jpg",
    ".. /x.jpg",
)


def write_archive(path: Path, files: Mapping[str, bytes]) -> str:
    """An archive of the kind its suffix names."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
        return str(path)
    kind = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{kind}") as archive:
        for name, data in files.items():
            add(archive, name, data)
    return str(path)


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    archive.addfile(info, io.BytesIO(data))


def errors(items: list[Item]) -> dict[str, str]:
    """Name in the archive -> why it cannot be read."""
    return {PurePosixPath(item.name).name: item.error.message for item in items if isinstance(item, Refused)}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_photos_are_read_in_place(tmp_path: Path, suffix: str) -> None:
    archive = write_archive(tmp_path / f"photos{suffix}", FILES)
    found = find_items(archive)
    assert [(item.name, item.relative.as_posix(), item.path, item.kind) for item in found] == [
        (f"{archive}/{name}", name, Path(archive), "photo") for name in ("b/10.jpg", "b/2.PNG", "a.jpg")
    ]
    with closing(ArchiveReader()) as reader:
        for order in (found, found[::-1], found):
            assert [reader.read(item) for item in order] == [FILES[item.relative.as_posix()] for item in order]
        reader.close()
        assert reader.read(found[0]) == b"ten"
    assert read_photo_bytes(found[2]) == FILES["a.jpg"]
    assert os.listdir(tmp_path) == [f"photos{suffix}"]
    assert find_items([archive, found[1], str(tmp_path / "*")]) == found


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_hostile_names_are_errors_in_their_place(tmp_path: Path, suffix: str) -> None:
    archive = write_archive(tmp_path / f"evil{suffix}", {**dict.fromkeys(EVIL, b"x"), "win\\dir\\a.jpg": b"good"})
    found = find_members(archive)
    assert len(found) == len(EVIL) + 1
    for item in found[:-1]:
        assert isinstance(item, Refused)
        assert item.error.message == "its name leads out of the archive"
        assert item.relative == Path("refused")
        with pytest.raises(DataError, match="leads out"):
            read_photo_bytes(item)
    assert found[-1].relative == Path("win/dir/a.jpg")
    assert read_photo_bytes(found[-1]) == b"good"


@given(
    st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "/", "\\", "a", "C:", " ", "~", "\0"])).map("".join)
)
def test_no_name_leaves_the_folder_it_is_put_in(name: str) -> None:
    relative = safe_relative(name)
    if relative is not None:
        target = os.path.normpath(Path("/out") / relative)
        assert target.startswith("/out/")
        assert not relative.is_absolute()
        assert ".." not in relative.parts


def test_members_of_a_tar_that_are_no_files_are_errors(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        add(archive, "a.jpg", b"a")
        add(archive, "folder.jpg", kind=tarfile.DIRTYPE)
        add(archive, "soft.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add(archive, "hard.jpg", kind=tarfile.LNKTYPE, link="a.jpg")
        add(archive, "device.jpg", kind=tarfile.CHRTYPE)
        add(archive, "film.mp4", b"film")
        add(archive, "a.jpg", b"a again")
    found = find_members(str(tmp_path / "odd.tar"))
    assert errors(found) == {
        "soft.jpg": "is a link to /etc/passwd; only files are read",
        "hard.jpg": "is a link to a.jpg; only files are read",
        "device.jpg": "is no file; only files are read",
        "film.mp4": "is a video in an archive, where videos are not read; unpack it first",
        "a.jpg (2)": "is in the archive once more under this name; the first is read",
    }
    assert read_photo_bytes(found[0]) == b"a"
    assert len(find_items([tmp_path / "odd.tar"])) == 6
    with closing(ArchiveReader()) as reader, pytest.raises(DataError, match="no file"):
        reader.read(Item("x", Path("x"), path=tmp_path / "odd.tar", member="soft.jpg"))


def test_members_of_a_zip_that_are_no_files_are_errors(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("soft.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr("a.jpg", b"a")
        archive.writestr("folder.jpg/", b"")
        archive.writestr(link, b"/etc/passwd")
        archive.writestr("secret.jpg", b"s")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.jpg", b"a again")
    data = bytearray((tmp_path / "odd.zip").read_bytes())
    data[data.rindex(b"secret.jpg") - 46 + 8] |= 1  # the flags in the directory at the end
    (tmp_path / "odd.zip").write_bytes(data)
    found = find_members(str(tmp_path / "odd.zip"))
    assert errors(found) == {
        "soft.jpg": "is a link; only files are read",
        "secret.jpg": "is encrypted",
        "a.jpg (2)": "is in the archive once more under this name; the first is read",
    }
    assert read_photo_bytes(found[0]) == b"a"


def test_names_in_other_encodings(tmp_path: Path) -> None:
    info = tarfile.TarInfo(os.fsdecode(b"\xfcber.jpg"))  # Latin-1
    info.size = 1
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        archive.addfile(info, io.BytesIO(b"1"))
    data = write_zip_bytes({"caf\u00e9.jpg": b"2"})
    unsaid = bytearray(data)
    for mark, at in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):  # clear "names are UTF-8", as old programs leave it
        unsaid[unsaid.index(mark) + at] &= ~0x08
    (tmp_path / "b.zip").write_bytes(unsaid)
    found = find_items([tmp_path / "a.tar", tmp_path / "b.zip"])
    assert [str(item.relative) for item in found] == [os.fsdecode(b"\xfcber.jpg"), "caf\u00e9.jpg"]
    assert [read_photo_bytes(item) for item in found] == [b"1", b"2"]


def write_zip_bytes(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_what_is_too_large_is_refused_before_and_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        write_archive(tmp_path / f"a{suffix}", {"small.jpg": b"s" * 100, "big.jpg": b"b" * 101}) for suffix in SUFFIXES
    ]
    unlimited = [find_members(path)[1] for path in paths]
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 100)
    monkeypatch.setattr(archive_reader, "MAX_FILE_BYTES", 100)
    for path, item in zip(paths, unlimited, strict=True):
        small, big = find_members(path)
        assert isinstance(big, Refused)
        assert big.error.message == "is too large for an image: 101 bytes"
        assert read_photo_bytes(small) == b"s" * 100
        with pytest.raises(DataError, match="more than 1 GiB"):
            read_photo_bytes(item)


def test_a_zip_that_understates_a_size_is_not_believed(tmp_path: Path) -> None:
    data = write_zip_bytes({"bomb.jpg": bytes(1_000_000)})
    size = (1_000_000).to_bytes(4, "little")
    (tmp_path / "bomb.zip").write_bytes(data.replace(size, (10).to_bytes(4, "little")))
    (item,) = find_items(tmp_path / "bomb.zip")
    with pytest.raises(DataError, match=r"bomb\.jpg: cannot be read from its archive"):
        read_photo_bytes(item)


def test_one_damaged_member_of_a_zip_leaves_the_others(tmp_path: Path) -> None:
    data = bytearray(write_zip_bytes({"a.jpg": b"a" * 50, "b.jpg": os.urandom(500), "c.jpg": b"c"}))
    data[data.index(b"b.jpg") + 200] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(data)
    found = find_items(tmp_path / "a.zip")
    with closing(ArchiveReader()) as reader:
        with pytest.raises(DataError, match=r"b\.jpg: cannot be read from its archive; found Bad CRC-32"):
            reader.read(found[1])
        assert [reader.read(found[0]), reader.read(found[2])] == [b"a" * 50, b"c"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.75])
def test_a_truncated_archive_is_one_line(tmp_path: Path, suffix: str, share: float) -> None:
    path = Path(write_archive(tmp_path / f"a{suffix}", {f"{n}.jpg": os.urandom(3000) for n in range(9)}))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match="is a damaged archive, or none; found ") as caught:
        find_items(path)
    assert "\n" not in str(caught.value)


def test_a_tar_cut_off_between_two_members_is_damaged(tmp_path: Path) -> None:
    path = Path(write_archive(tmp_path / "a.tar", {f"{n}.jpg": b"x" * 512 for n in range(9)}))
    path.write_bytes(path.read_bytes()[: 4 * 1024])
    with pytest.raises(DataError, match="ends without an end mark"):
        find_items(path)


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_its_end(tmp_path: Path) -> None:
    path = Path(write_archive(tmp_path / "a.tar", {f"{n}.jpg": b"x" * 512 for n in range(9)}))
    data = bytearray(path.read_bytes())
    data[4 * 1024 + 3] ^= 0xFF  # in the name of the fifth: its checksum is wrong
    path.write_bytes(data)
    with pytest.raises(DataError, match="a damaged header in the middle"):
        find_items(path)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_an_archive_without_photos_is_an_error(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match="no photos in this archive"):
        find_items(write_archive(tmp_path / f"a{suffix}", {"notes.txt": b"no", "in.zip": b"PK"}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=120)
@given(
    st.sampled_from([".zip", ".tar", ".tar.gz"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.binary(max_size=6)), max_size=5),
)
def test_random_damage_never_escapes_as_another_error(
    tmp_path: Path, suffix: str, edits: list[tuple[float, bytes]]
) -> None:
    path = Path(write_archive(tmp_path / f"a{suffix}", {"a.jpg": b"photo a", "d/b.jpg": b"photo b" * 99}))
    data = bytearray(path.read_bytes()[:6000] if suffix == ".tar" else path.read_bytes())
    for share, new in edits:
        at = int(share * len(data))
        data[at : at + len(new)] = new
    path.write_bytes(data)
    try:
        found = find_items(path)
    except DataError:
        return
    with closing(ArchiveReader()) as reader:
        for item in found:
            assert not item.relative.is_absolute()
            try:
                assert isinstance(read_photo_bytes(item, reader), bytes)
            except DataError:
                continue


# ---- threads and order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_several_threads_read_several_archives(tmp_path: Path, suffix: str) -> None:
    """More archives than are kept open, in any order."""
    files = {f"{n}.jpg": f"photo {n}".encode() * 50 for n in range(12)}
    paths = [write_archive(tmp_path / f"{k}{suffix}", {n: d + bytes([k]) for n, d in files.items()}) for k in range(12)]
    items = [
        (item, files[item.relative.name] + bytes([k])) for k, path in enumerate(paths) for item in find_members(path)
    ]
    random.Random(0).shuffle(items)
    with closing(ArchiveReader()) as reader, ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda pair: reader.read(pair[0]) == pair[1], items)) == [True] * 144


def test_a_compressed_tar_is_decompressed_once_though_threads_ask_out_of_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = {f"{n}.jpg": os.urandom(2000) for n in range(60)}
    items = find_members(write_archive(tmp_path / "a.tar.gz", photos))
    opened, read = tarfile.open, [0]

    def counting(*arguments: object, **options: object) -> tarfile.TarFile:
        file = opened(*arguments, **options)
        raw = file.fileobj.fileobj  # the compressed bytes
        whole = raw.read

        def counted(size: int = -1) -> bytes:
            data = whole(size)
            read[0] += len(data)
            return data

        raw.read = counted
        return file

    monkeypatch.setattr(tarfile, "open", counting)
    order = [items[n + k] for n in range(0, 60, 4) for k in (2, 0, 3, 1)]
    with closing(ArchiveReader()) as reader:
        assert [reader.read(item) for item in order] == [photos[item.relative.name] for item in order]
    size = (tmp_path / "a.tar.gz").stat().st_size
    assert 0 < read[0] <= size * 1.1


def test_what_is_kept_of_a_compressed_tar_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_reader, "_KEPT_BYTES", 5000)
    photos = {f"{n}.jpg": os.urandom(2000) for n in range(20)}
    items = find_members(write_archive(tmp_path / "a.tgz", photos))
    with closing(ArchiveReader()) as reader:
        assert reader.read(items[19]) == photos["19.jpg"]
        archive = reader._archives[tmp_path / "a.tgz"]
        assert list(archive._kept) == ["17.jpg", "18.jpg"]
        assert archive._kept_bytes == 4000
        assert [reader.read(item) for item in items] == list(photos.values())


def test_an_archive_that_changed_meanwhile_is_an_error(tmp_path: Path) -> None:
    for suffix in (".zip", ".tar.gz"):
        (item,) = find_items(write_archive(tmp_path / f"a{suffix}", {"a.jpg": b"a"}))
        write_archive(tmp_path / f"a{suffix}", {"b.jpg": b"b"})
        with pytest.raises(DataError, match=r"a\.jpg: cannot be read from its archive"):
            read_photo_bytes(item)
        (tmp_path / f"a{suffix}").unlink()
        with pytest.raises(DataError, match="No such file"):
            read_photo_bytes(item)
