"""Darknet's weights files: every number at its place, every wrong file a line, and OpenCV's own rows reproduced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from small_darknet import EVERYTHING, NAMES, SQUARED, YOLO, count, header, numbers, write_model  # noqa: E402

from detkit.engines.torch import TorchEngine  # noqa: E402
from detkit.errors import UsageError, WeightsError  # noqa: E402
from detkit.images import read_image  # noqa: E402
from detkit.models.darknet.blocks import HeadConv  # noqa: E402
from detkit.models.darknet.cfg import parse_cfg  # noqa: E402
from detkit.models.darknet.files import DarknetFiles  # noqa: E402
from detkit.models.darknet.weights import cfg_for_training, import_darknet  # noqa: E402
from detkit.nms import nms  # noqa: E402


def test_every_number_has_its_place(tmp_path: Path) -> None:
    """The file counts up, so a number says where it stood: bias, scale, mean, variance, weights; then the head's."""
    files = write_model(tmp_path, YOLO)
    files.weights.write_bytes(header() + np.arange(count(YOLO), dtype="<f4").tobytes())
    model, _ = import_darknet(files)
    plain, norm, _ = model.conv_layer(0)
    assert norm.bias.tolist() == [0, 1, 2, 3, 4, 5]
    assert norm.weight.tolist() == [6, 7, 8, 9, 10, 11]
    assert norm.running_mean.tolist() == [12, 13, 14, 15, 16, 17]
    assert norm.running_var.tolist() == [18, 19, 20, 21, 22, 23]
    assert plain.weight[1, 2, 0].tolist() == [24 + 27 + 18, 24 + 27 + 19, 24 + 27 + 20]
    head, start = model.conv_layer(1), 24 + 6 * 27
    assert isinstance(head, HeadConv)
    assert (head.to_box.bias - start).tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert (head.to_class.bias - start).tolist() == [5, 6, 12, 13]
    assert (head.to_class.weight[:, 0, 0, 0] - start - 14).tolist() == [6 * row for row in (5, 6, 12, 13)]


@pytest.mark.parametrize(("version", "size"), [((0, 1), 16), ((0, 2), 20), ((0, 5), 20), ((1, 0), 20)])
def test_both_headers(tmp_path: Path, version: tuple[int, int], size: int) -> None:
    files = write_model(tmp_path, version=version)
    assert files.weights.stat().st_size == size + 4 * count(EVERYTHING)
    model, card = import_darknet(files)
    assert card.training["photos_seen"] == 6400
    plain, norm, _ = model.conv_layer(0)
    assert norm.bias.tolist() == numbers(EVERYTHING)[:8].tolist()
    assert plain.bias is None


def test_the_card(tmp_path: Path) -> None:
    _, card = import_darknet(write_model(tmp_path), licence="public domain")
    assert (card.task, card.class_names, card.input_hw, card.fit) == ("darknet", NAMES, (64, 96), "stretch")
    assert card.anchors_wh_px == (((20, 30), (30.5, 20)), ((12, 16), (4, 2)))
    assert card.licences == {"code": "Apache-2.0", "weights": "public domain", "data": "unspecified"}
    assert card.from_json(card.to_json()) == card
    boxed = write_model(tmp_path, EVERYTHING.replace("channels=3", "channels=3\nletter_box=1"))
    assert import_darknet(boxed)[1].fit == "letterbox"
    assert import_darknet(boxed, "stretch")[1].fit == "stretch"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda data: data[:-1],
            "net.weights: is shorter than its cfg says; found {less} bytes; expected {all}: a head",
        ),
        (lambda data: data + b"\0", "is longer than its cfg says; found {more} bytes; expected {all}: a header of 20"),
        (lambda data: b"", "is too short; found 0 bytes"),
        (lambda data: data[:15], "is too short; found 15 bytes"),
        (lambda data: b"\x50\x4b\x03\x04" + data[4:], "does not begin as a Darknet weights file; found version 6732"),
        (lambda data: b"\xff" * 12 + data[12:], "found version -1.-1"),
        (lambda data: header((0, 1)) + data[20:], None),
        (lambda data: data[:-4] + np.float32(np.nan).tobytes(), "layer 17 holds something that is no number"),
        (lambda data: data[:20] + np.full(32, -1, "<f4").tobytes() + data[148:], "layer 0 has a negative variance"),
    ],
)
def test_a_wrong_file_is_a_line(tmp_path: Path, change: Any, words: str | None) -> None:
    files = write_model(tmp_path)
    data = files.weights.read_bytes()
    files.weights.write_bytes(change(data))
    if words is None:  # the older header is as good
        import_darknet(files)
        return
    with pytest.raises(WeightsError) as caught:
        import_darknet(files)
    sizes = {"less": f"{len(data) - 1:,}", "more": f"{len(data) + 1:,}", "all": f"{len(data):,}"}
    assert words.format(**sizes) in str(caught.value)


def test_wrong_names(tmp_path: Path) -> None:
    files = write_model(tmp_path)
    for text, words in (
        (b"red\n", "net.names: holds another number of class names; found 1 names; expected 2, the classes of the cfg"),
        (b"a\nb\nc", "found 3 names"),
        (b"a\n\na\n", "net.names:3: names a class twice, first on line 1; found 'a'"),
        (b"\xff\xfe\0", "is not UTF-8 text"),
    ):
        files.names.write_bytes(text)
        with pytest.raises(WeightsError) as caught:
            import_darknet(files)
        assert words in str(caught.value)


@pytest.mark.parametrize("part", ["cfg", "weights", "names"])
def test_files_that_cannot_be_read(tmp_path: Path, part: str) -> None:
    files = write_model(tmp_path)
    with pytest.raises(WeightsError, match="lost: cannot be read: No such file"):
        import_darknet(replace(files, **{part: tmp_path / "lost"}))
    with pytest.raises(WeightsError, match="cannot be read: Is a directory"):
        import_darknet(replace(files, **{part: tmp_path}))


def test_the_weights_in_the_place_of_the_cfg(tmp_path: Path) -> None:
    files = write_model(tmp_path)
    with pytest.raises(WeightsError, match="give the cfg first, then the weights"):
        import_darknet(DarknetFiles(files.weights, files.cfg, files.names))


def test_a_network_of_random_weights_by_file_or_text(tmp_path: Path) -> None:
    files = write_model(tmp_path, SQUARED)
    text = cfg_for_training(str(files.cfg), [64, 96])
    assert text == cfg_for_training(SQUARED, [96]) == cfg_for_training(text, [32, 96])
    assert parse_cfg(text).input_hw == (96, 96)
    assert parse_cfg(text).layers == parse_cfg(SQUARED).layers
    with pytest.raises(UsageError, match=r"darknet:FILE\.cfg"):
        cfg_for_training("", [96])


def test_a_network_that_needs_larger_steps_says_so(tmp_path: Path) -> None:
    """A stride of 64 does not tile 96 px."""
    cfg = SQUARED.replace("stride=16", "stride=64").replace("height=32", "height=64")
    with pytest.raises(WeightsError, match=r"the cfg at 96 px:.* do not tile the canvas; found 2 x 2 for 96 x 96 px"):
        cfg_for_training(cfg, [64, 96, 128])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["cfg", "weights"]), st.integers(0), st.integers(0, 7), st.integers(0), st.booleans())
def test_flipped_bits_and_cut_files_are_models_or_lines(
    tmp_path: Path, part: str, at: int, bit: int, length: int, cut: bool
) -> None:
    files = write_model(tmp_path)
    path = getattr(files, part)
    data = bytearray(path.read_bytes())
    at = at % (24 if part == "weights" and at % 2 else len(data))
    data[at] ^= 1 << bit
    path.write_bytes(data[: length % len(data)] if cut else data)
    try:
        import_darknet(files)
    except WeightsError as error:
        assert str(error).startswith(str(tmp_path))


MODELS = {
    "tiny-yolo": None,
    "tiny-region": None,
    "yolo-fastest-1.1": "coco.names",
    "MobileNetV2-YOLO-Fastest-voc-v2": "voc.names",
}


@pytest.mark.parametrize("name", MODELS)
def test_every_row_of_opencvs_own_reader(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Boxes and scores of every row, in OpenCV's order; it gives 0 for a score of at most 0.0001.

    Its region layer has already suppressed overlaps of 0.4 within each class, so that is done here too.
    """
    folder = shared_data.parent / "weights" / "darknet"
    names = folder / (MODELS[name] or "")
    if MODELS[name] is None:
        names = tmp_path / "four.names"
        names.write_text("a\nb\nc\nd\n")
    model, card = import_darknet(DarknetFiles(folder / f"{name}.cfg", folder / f"{name}.weights", names))
    height, width = card.input_hw
    reference = np.load(folder / f"{name}.reference.npz")
    assert len(reference.files) == 3
    for photo in reference.files:
        canvas = read_image(folder / "inputs" / f"{photo}-{width}x{height}.png")
        found, rows = TorchEngine(model, card).run(canvas[None]), reference[photo]
        boxes = found.boxes_xyxy[0] / np.array([width, height] * 2)
        cxcywh = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
        assert cxcywh.shape == rows[:, :4].shape
        assert np.abs(cxcywh - rows[:, :4]).max() < 1e-4
        scores = np.where(found.scores[0] > 1e-4, found.scores[0], 0)
        if model.cfg.heads[0].softmax:
            scores = suppressed(found.boxes_xyxy[0], scores, 0.4)
        assert np.abs(scores - rows[:, 5:]).max() < 1e-4


def suppressed(boxes_xyxy: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """The scores [N, K] with 0 where a better box of the class overlaps more than `iou`."""
    kept = np.zeros_like(scores)
    for label in range(scores.shape[1]):
        rows = np.flatnonzero(scores[:, label])
        rows = rows[nms(boxes_xyxy[rows], scores[rows, label], None, iou)]
        kept[rows, label] = scores[rows, label]
    return kept
