"""Reading images: every kind of file a user has, and the broken ones refused by name."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest

from detkit.errors import DataError
from detkit.images import decode_image, read_image, read_size_hw

HEIGHT, WIDTH = 40, 60


def quarters() -> np.ndarray:
    """A 40 x 60 picture with red, green, blue and grey quarters: any turn or channel swap shows."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:20, :30], image[:20, 30:], image[20:, :30], image[20:, 30:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 200
    return image


def encode(image: np.ndarray, suffix: str) -> bytes:
    """Bytes of an RGB, RGBA or grey image of 8 or 16 bits."""
    order = {2: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}[image.shape[2] if image.ndim == 3 else 2]
    done, data = cv2.imencode(suffix, image if image.ndim == 2 else np.ascontiguousarray(image[:, :, order]))
    assert done
    return data.tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header: bytes, rows: bytes, *extra: bytes) -> bytes:
    body = png_chunk(b"IHDR", header) + b"".join(extra) + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def exif(orientation: int, order: str = "<") -> bytes:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)


def with_exif(data: bytes, orientation: int, order: str) -> bytes:
    """A JPEG, PNG or WebP with an EXIF orientation."""
    block = exif(orientation, order)
    if data.startswith(b"\xff\xd8"):
        payload = b"Exif\0\0" + block
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]
    if data.startswith(b"\x89PNG"):
        return data[:33] + png_chunk(b"eXIf", block) + data[33:]
    extended = struct.pack("<4sIB3x", b"VP8X", 10, 0x08)
    extended += (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    body = b"WEBP" + extended + data[12:] + struct.pack("<4sI", b"EXIF", len(block)) + block
    return b"RIFF" + struct.pack("<I", len(body)) + body


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """What the EXIF standard says a viewer shows."""
    return {
        1: image,
        2: np.fliplr(image),
        3: np.rot90(image, 2),
        4: np.flipud(image),
        5: image.transpose(1, 0, 2),
        6: np.rot90(image, -1),
        7: np.rot90(image, 2).transpose(1, 0, 2),
        8: np.rot90(image, 1),
    }[orientation]


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: int = 0) -> None:
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    inner = np.abs(found.astype(int) - expected)[[5, 5, -6, -6], [5, -6, 5, -6]]  # away from the edges JPEG blurs
    assert inner.max() <= tolerance


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm", ".jpg", ".webp", ".gif"])
def test_kinds_of_file(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(encode(quarters(), suffix))
    image = read_image(path)
    tolerance = 30 if suffix == ".gif" else 6  # OpenCV's GIF writer has few colours
    assert_close(image, quarters(), tolerance)
    assert image.flags.c_contiguous
    assert read_size_hw(path) == (HEIGHT, WIDTH)
    assert_close(read_image(str(path)), quarters(), tolerance)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, suffix, orientation):
    for order in "<>":
        path = tmp_path / f"turned{suffix}"
        path.write_bytes(with_exif(encode(quarters(), suffix), orientation, order))
        expected = turned(quarters(), orientation)
        assert_close(read_image(path), expected, 6)
        assert read_size_hw(path) == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_tiff(tmp_path, orientation):
    image_module = pytest.importorskip("PIL.Image")
    image_exif = image_module.Exif()
    image_exif[274] = orientation
    path = tmp_path / "turned.tiff"
    image_module.fromarray(quarters()).save(path, exif=image_exif)
    assert_close(read_image(path), turned(quarters(), orientation))
    assert read_size_hw(path) == turned(quarters(), orientation).shape[:2]


def test_nonsense_exif_is_ignored():
    for orientation in (0, 9, 65535):
        assert_close(decode_image(with_exif(encode(quarters(), ".jpg"), orientation, "<"), "a"), quarters(), 6)
    broken = b"Exif\0\0II*\0\xff\xff\xff\x7f"
    data = encode(quarters(), ".jpg")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken + data[2:]
    assert_close(decode_image(data, "a"), quarters(), 6)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg", ".bmp"])
def test_grey(suffix):
    grey = quarters()[:, :, 0]
    assert_close(decode_image(encode(grey, suffix), "a"), np.stack([grey] * 3, axis=2), 3)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits(suffix):
    deep = quarters().astype(np.uint16) * 257
    assert_close(decode_image(encode(deep, suffix), "a"), quarters(), 1)
    assert_close(decode_image(encode(deep[:, :, 0], suffix), "a"), np.stack([quarters()[:, :, 0]] * 3, axis=2), 1)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_transparency_is_laid_on_white(suffix):
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:20] = 0
    alpha[20:, 30:] = 128
    expected = quarters()
    expected[:20], expected[20:, 30:] = 255, 227  # 200 * 128/255 + 255 * 127/255
    assert_close(decode_image(encode(np.dstack([quarters(), alpha]), suffix), "a"), expected, 4)
    opaque = np.dstack([quarters(), np.full_like(alpha, 255)])
    assert_close(decode_image(encode(opaque, suffix), "a"), quarters(), 4)


def test_transparency_in_sixteen_bits_and_turned():
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint16)
    alpha[:20] = 0
    expected = quarters()
    expected[:20] = 255
    deep = np.dstack([quarters(), alpha]).astype(np.uint16) * 257
    assert_close(decode_image(with_exif(encode(deep, ".png"), 6, "<"), "a"), turned(expected, 6), 1)


def test_palette_png():
    index = (np.arange(HEIGHT)[:, None] // 20 * 2 + np.arange(WIDTH) // 30).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in index)
    palette = png_chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 200, 200, 200]))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)
    assert_close(decode_image(png(header, rows, palette), "a"), quarters())
    clear = decode_image(png(header, rows, palette, png_chunk(b"tRNS", b"\xff\x00")), "a")
    expected = quarters()
    expected[:20, 30:] = 255
    assert_close(clear, expected)


def test_cmyk_jpeg():
    image_module = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image_module.fromarray(quarters()).convert("CMYK").save(buffer, "JPEG", quality=95)
    assert_close(decode_image(buffer.getvalue(), "a"), quarters(), 6)


def test_progressive_jpeg_and_its_truncation():
    done, data = cv2.imencode(".jpg", quarters()[:, :, ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    assert_close(decode_image(data.tobytes(), "a"), quarters(), 6)
    with pytest.raises(DataError, match="truncated JPEG"):
        decode_image(data.tobytes()[:-40], "a")


def test_bytes_after_the_end_of_a_jpeg_do_not_matter():
    for tail in (b"\0" * 100, b"\xff\xd8\xff\xe0 the first bytes of another", b"\n"):
        assert_close(decode_image(encode(quarters(), ".jpg") + tail, "a"), quarters(), 6)
    assert_close(decode_image(encode(quarters(), ".png") + b"tail", "a"), quarters())


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif"])
def test_truncated_files_are_refused_in_silence(tmp_path, capfd, suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    data = encode(noise, suffix)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "found" in str(caught.value)
    assert "expected" in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_with_a_whole_thumbnail_inside_is_truncated_all_the_same():
    thumbnail = encode(quarters()[:16, :16], ".jpg")
    data = encode(quarters(), ".jpg")
    block = b"JFXX\0" + thumbnail
    data = data[:2] + b"\xff\xe0" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert_close(decode_image(data, "a"), quarters(), 6)
    with pytest.raises(DataError, match="truncated JPEG"):
        decode_image(data[:-30], "a")


def test_a_png_with_one_wrong_byte_is_refused(capfd):
    data = bytearray(encode(quarters(), ".png"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(DataError, match="damaged PNG"):
        decode_image(bytes(data), "a")
    assert capfd.readouterr().err == ""


def test_a_broken_colour_profile_in_a_png_prints_nothing(capfd):
    data = encode(quarters(), ".png")
    data = data[:33] + png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile")) + data[33:]
    assert_close(decode_image(data, "a"), quarters())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("read", [read_image, read_size_hw])
def test_what_is_no_image_is_refused_by_name(tmp_path, read):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello world")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "start.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name, found in {
        "empty.jpg": "0 bytes",
        "text.jpg": "starts with b'hello wo'",
        "folder.jpg": "a directory",
        "missing.jpg": "no such file",
        "start.png": "starts with",
    }.items():
        with pytest.raises(DataError) as caught:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert found in str(caught.value)


def test_a_decompression_bomb_is_refused_before_decoding():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    with pytest.raises(DataError, match="60000 x 60000 pixels"):
        decode_image(png(header, b"\0" * 1000), "bomb.png")


def test_random_damage_never_escapes_as_another_error():
    rng = np.random.default_rng(0)
    for suffix in (".jpg", ".png", ".webp", ".gif", ".tiff", ".bmp"):
        whole = encode(quarters(), suffix)
        for _ in range(60):
            data = bytearray(whole)
            for position in rng.integers(0, min(len(data), 200), 3):
                data[position] = rng.integers(256)
            try:
                image = decode_image(bytes(data), "damaged")
            except DataError:
                continue
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
