"""Small Darknet models for the tests: cfg texts that use every section, and weights files for them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from detkit.models.darknet.cfg import parse_cfg
from detkit.models.darknet.files import DarknetFiles

NAMES = ("red", "blue")

# Every section and activation; layer 6 is the last that the second head's branch goes back to.
EVERYTHING = """
[net]
# a comment; and another
batch=64
width = 96
height = 64
channels=3
learning_rate=0.001

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish

[convolutional]
batch_normalize=1
filters=8
size=3
groups=8
pad=1
activation=swish

[avgpool]

[convolutional]
filters=8
activation=relu6

[convolutional]
filters=8
activation=logistic

[scale_channels]
from=1
activation=relu

[shortcut]
from=0
activation=leaky

[maxpool]
size=2
stride=2

[dropout]
probability=.5

[reorg]
stride=2

[maxpool]
size=2
stride=1

[convolutional]
filters=12
size=3
stride=2
padding=1
activation=leaky

[convolutional]
filters=14
activation=linear

[yolo]
mask=1,2
anchors=5,8, 20,30, 30.5,20
num=3
classes=2
scale_x_y=1.05
jitter=.3

[route]
layers=-3

[upsample]
stride=2

[route]
layers=-1,10
groups=2
group_id=1

[convolutional]
filters=14
size=1
activation=linear

[region]
anchors=1.5,2, .5,.25
num=2
classes=2
coords=4
softmax=1
"""

ONE_HEAD = """
[net]
width=64
height=32
channels=3
[convolutional]
batch_normalize=1
filters=6
size=3
stride={stride}
pad=1
activation=leaky
[convolutional]
filters={filters}
size=1
activation={activation}
"""
YOLO = (
    ONE_HEAD.format(stride=32, filters=14, activation="linear")
    + """
[yolo]
mask=0,1
anchors=10,20, 30,8
num=2
classes=2
scale_x_y=1.2
"""
)
SQUARED = (
    ONE_HEAD.format(stride=16, filters=7, activation="logistic")
    + """
[yolo]
anchors=10,20
num=1
classes=2
scale_x_y=2.0
new_coords=1
"""
)
REGION = (
    ONE_HEAD.format(stride=32, filters=14, activation="linear")
    + """
[region]
anchors=1.5,2, .5,.25
num=2
classes=2
softmax=1
"""
)


def count(cfg: str) -> int:
    """Numbers in a weights file for a cfg."""
    return sum(conv.parameters for _, conv in parse_cfg(cfg).convs)


def numbers(cfg: str, seed: int = 0) -> np.ndarray:
    """Random weights that keep every layer's output at about 1."""
    rng = np.random.default_rng(seed)
    parts = []
    for _, conv in parse_cfg(cfg).convs:
        parts.append(rng.normal(0, 0.5, conv.filters))
        if conv.batch_normalize:
            parts += [rng.uniform(0.5, 1.5, conv.filters), rng.normal(0, 0.2, conv.filters)]
            parts.append(rng.uniform(0.1, 0.5, conv.filters))
        inputs = conv.channels_in // conv.groups * conv.size**2
        parts.append(rng.normal(0, inputs**-0.5, conv.filters * inputs))
    return np.concatenate(parts).astype("<f4")


def header(version: tuple[int, int] = (0, 2), seen: int = 6400) -> bytes:
    """The header of a weights file, 16 bytes before version 0.2 and 20 from then on."""
    major, minor = version
    return struct.pack("<iii", major, minor, 0) + struct.pack("<q" if major * 10 + minor >= 2 else "<i", seen)


def write_model(folder: Path, cfg: str = EVERYTHING, version: tuple[int, int] = (0, 2)) -> DarknetFiles:
    """The three files of a model with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    files = DarknetFiles(folder / "net.cfg", folder / "net.weights", folder / "net.names")
    files.cfg.write_text(cfg)
    files.weights.write_bytes(header(version) + numbers(cfg).tobytes())
    files.names.write_text("\n".join(NAMES) + "\n\n")
    return files
