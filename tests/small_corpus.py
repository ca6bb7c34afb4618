"""A folder of tiny photos, some of them bad, and a film, with a model for them; and `detkit detect` on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from fake_model import card_with, write_fake_model
from small_videos import make_video
from typer.testing import CliRunner, Result

from detkit import cli
from detkit.images import write_image

BAD = {3: b"", 40: b"no picture at all"}  # number -> what is in the file


def make_corpus(folder: Path, photos: int) -> Path:
    """m.onnx, and in corpus/ 0.png and so on, whose quarters are red and blue by chance, and film.mp4."""
    write_fake_model(folder / "m.onnx", card_with(fit="stretch"))
    (folder / "corpus").mkdir()
    rng = np.random.default_rng(0)
    for number in range(photos):
        quarters = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        photo = quarters.repeat(4 + number % 5, axis=0).repeat(4 + number % 3, axis=1)
        write_image(folder / "corpus" / f"{number}.png", photo)
    for number, data in BAD.items():
        if number < photos:
            (folder / "corpus" / f"{number}.png").write_bytes(data)
    make_video(folder / "corpus" / "film.mp4", 12)
    return folder


def detect(*arguments: str) -> Result:
    """`detkit detect` in this process and the current folder; a bug is raised."""
    result = CliRunner().invoke(cli.app, ["detect", "--weights", "m.onnx", "--backend", "onnxruntime", *arguments])
    if result.exit_code == 1:
        assert result.exception is not None
        raise result.exception
    return result


def lines(file: Path) -> list[bytes]:
    """The lines of a file of records but for the first, which says with what settings they were made."""
    header, *rest = file.read_bytes().splitlines(keepends=True)
    assert json.loads(header)["kind"] == "run"
    return rest


def name_of(line: bytes) -> str:
    record: dict[str, Any] = json.loads(line)
    return str(record["name"])
