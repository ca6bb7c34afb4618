"""Darknet's model files (.cfg, .weights, .names) as numbers; nothing in them is trusted, and PyTorch is not needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from detkit.errors import WeightsError
from detkit.models.darknet.cfg import Cfg, parse_cfg
from detkit.models.darknet.sections import read_cfg_text

Floats = NDArray[np.float32]

_MAX_NAMES_BYTES = 4 << 20
_OLD_HEADER, _NEW_HEADER = 16, 20  # bytes: three int32, then the photos seen as int32, from version 0.2 on as int64


@dataclass(frozen=True, slots=True)
class DarknetFiles:
    """The files of one model: its network, its weights, and a class name a line."""

    cfg: Path
    weights: Path
    names: Path


@dataclass(frozen=True, slots=True, eq=False)
class DarknetModel:
    """What the files say.

    files: where it comes from. cfg: the network. class_names: in label order. numbers: float32, all of the weights
    file in its order. photos_seen: by the training.
    """

    files: DarknetFiles
    cfg: Cfg
    class_names: tuple[str, ...]
    numbers: Floats
    photos_seen: int


def read_darknet(files: DarknetFiles) -> DarknetModel:
    """Read a model's files and check them against each other.

    Raises:
        WeightsError: a file that cannot be read, that holds something unknown, or that does not fit the others.
    """
    cfg = parse_cfg(read_cfg_text(files.cfg), files.cfg)
    names = _read_names(files.names, cfg)
    return DarknetModel(files, cfg, names, *_read_weights(files.weights, cfg))


def _read_names(path: Path, cfg: Cfg) -> tuple[str, ...]:
    """A class name a line, as many as the cfg's heads tell apart."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_NAMES_BYTES + 1)
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", file=path) from error
    except UnicodeDecodeError as error:
        raise WeightsError("is not UTF-8 text", file=path, expected="a class name a line") from error
    named = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    wanted = cfg.heads[0].classes
    if len(named) != wanted or len(data) > _MAX_NAMES_BYTES:
        found, expected = f"{len(named)} names", f"{wanted}, the classes of the cfg"
        raise WeightsError("holds another number of class names", file=path, found=found, expected=expected)
    first: dict[str, int] = {}
    for number, name in named:
        if first.setdefault(name, number) != number:
            raise WeightsError(
                f"names a class twice, first on line {first[name]}", file=path, line=number, found=repr(name)
            )
    return tuple(first)


def _read_weights(path: Path, cfg: Cfg) -> tuple[Floats, int]:
    """Every number of a weights file that holds exactly what the cfg wants, and the photos its training saw."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            header, seen = _read_header(stream, path)
            wanted = sum(conv.parameters for _, conv in cfg.convs)
            if size != header + 4 * wanted:
                found, expected = (
                    f"{size:,} bytes",
                    f"{header + 4 * wanted:,}: a header of {header} and {wanted:,} numbers",
                )
                what = "is shorter than its cfg says" if size < header + 4 * wanted else "is longer than its cfg says"
                raise WeightsError(what, file=path, found=found, expected=expected)
            data = np.frombuffer(stream.read(4 * wanted), "<f4").astype(np.float32)
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", file=path) from error
    if len(data) != wanted:
        raise WeightsError("changed while it was read", file=path)
    return data, seen


def _read_header(stream: BinaryIO, path: Path) -> tuple[int, int]:
    """The header's bytes, and the photos seen; the file is then at the first number."""
    start = stream.read(_NEW_HEADER)
    if len(start) < _OLD_HEADER:
        expected = f"a Darknet weights file, with a header of {_OLD_HEADER} or {_NEW_HEADER}"
        raise WeightsError("is too short", file=path, found=f"{len(start)} bytes", expected=expected)
    major, minor, _revision = np.frombuffer(start[:12], "<i4").tolist()
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        found, expected = f"version {major}.{minor}", "0.1 or 0.2"
        raise WeightsError("does not begin as a Darknet weights file", file=path, found=found, expected=expected)
    header = _NEW_HEADER if major * 10 + minor >= 2 else _OLD_HEADER
    stream.seek(header)
    return header, int.from_bytes(start[12:header], "little")
