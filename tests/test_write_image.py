"""Writing images: they come back, and a failure leaves the old file and nothing else."""

from __future__ import annotations

import os

import numpy as np
import pytest
from test_images import HEIGHT, WIDTH, assert_close, quarters

from detkit.errors import RunError, UsageError
from detkit.images import read_image, read_size_hw, write_image


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".jpg", ".webp"])
def test_written_images_come_back(tmp_path, suffix):
    path = tmp_path / f"собака 狗 ü{suffix}"
    before = quarters()
    write_image(path, before)
    np.testing.assert_array_equal(before, quarters())
    assert_close(read_image(path), quarters(), 0 if suffix in (".png", ".bmp", ".tiff") else 6)
    assert read_size_hw(path) == (HEIGHT, WIDTH)
    assert os.listdir(tmp_path) == [path.name]  # no temporary file is left


def test_writing_replaces_the_old_file_or_leaves_it(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, np.zeros((5, 5, 3), np.uint8))
    write_image(path, quarters())
    assert_close(read_image(path), quarters())

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(RunError, match="No space left"):
        write_image(path, np.zeros((5, 5, 3), np.uint8))
    assert_close(read_image(path), quarters())
    assert os.listdir(tmp_path) == ["a.png"]


def test_what_cannot_be_written(tmp_path):
    for name in ("a.xyz", "a", "a.txt"):
        with pytest.raises(UsageError, match=r"expected \.jpg or \.png"):
            write_image(tmp_path / name, quarters())
    with pytest.raises(RunError, match="missing"):
        write_image(tmp_path / "missing" / "a.png", quarters())
    for wrong in (quarters()[:, :, 0], quarters().astype(np.float32), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            write_image(tmp_path / "a.png", wrong)
