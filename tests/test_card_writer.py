"""A model file with another card: the network's bytes stay, and what runs it gives the same."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_model import CANVAS, CARD, card_with, write_fake_model
from onnx import helper
from safetensors.numpy import load_file, save_file

from detkit.card_writer import with_card
from detkit.engines import open_engine
from detkit.errors import RunError, UsageError, WeightsError
from detkit.model_header import read_header_text
from detkit.weights import CARD_KEY, read_card

NEW = replace(CARD, class_thresholds={"red": 0.4, "blue": 0.125}, thresholds={"conf": 0.3, "iou": 0.6})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_fake_model(tmp_path / "m.onnx")


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    arrays = {"b.weight": np.arange(7, dtype=np.float16), "a": np.ones((2, 3), np.float32), "n": np.array(5)}
    save_file(arrays, tmp_path / "m.safetensors", {CARD_KEY: CARD.to_json(), "other": "é"})
    return tmp_path / "m.safetensors"


def test_an_onnx_copy_has_the_new_card_and_the_old_network(model: Path, tmp_path: Path) -> None:
    before, target = model.read_bytes(), tmp_path / "copy.onnx"
    with_card(model, NEW, target)
    assert read_card(target) == NEW
    assert model.read_bytes() == before
    old, new = onnx.load(model), onnx.load(target)
    assert new.graph.SerializeToString(deterministic=True) == old.graph.SerializeToString(deterministic=True)
    assert {prop.key: prop.value for prop in new.metadata_props} == {"producer": "tests", CARD_KEY: NEW.to_json()}
    assert len(new.metadata_props) == 2  # ONNX forbids a key twice
    onnx.checker.check_model(new)
    assert old.graph.SerializeToString() in target.read_bytes()
    del new.metadata_props[:], old.metadata_props[:]
    assert new == old


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_run_the_copy_and_give_the_same(engine: str, model: Path, tmp_path: Path) -> None:
    if engine == "openvino" and importlib.util.find_spec("openvino") is None:  # its own import reports to its makers
        pytest.skip("needs the openvino extra")
    with_card(model, NEW, tmp_path / "copy.onnx")
    photo = np.random.default_rng(0).integers(0, 256, (2, CANVAS, CANVAS, 3), dtype=np.uint8)
    outputs = [open_engine(path, engine).run(photo) for path in (model, tmp_path / "copy.onnx")]
    np.testing.assert_array_equal(outputs[0].scores, outputs[1].scores)
    np.testing.assert_array_equal(outputs[0].boxes_xyxy, outputs[1].boxes_xyxy)


def test_a_safetensors_copy_has_the_new_card_and_the_old_tensors(tensors: Path, tmp_path: Path) -> None:
    before, target = tensors.read_bytes(), tmp_path / "copy.safetensors"
    for card in (NEW, card_with(class_names=("rouge", "bleu é"))):  # headers of other lengths
        with_card(tensors, card, target)
        assert read_card(target) == card
        assert read_header_text(target, "other") == "é"
        old, new = load_file(tensors), load_file(target)
        assert list(new) == list(old)
        assert all(np.array_equal(new[name], old[name]) and new[name].dtype == old[name].dtype for name in old)
        length = int.from_bytes(target.read_bytes()[:8], "little")
        assert length % 8 == 0
        assert target.read_bytes()[8 + length :] == before[8 + int.from_bytes(before[:8], "little") :]
    assert tensors.read_bytes() == before


def test_a_copy_of_a_copy_has_one_card(model: Path, tmp_path: Path) -> None:
    with_card(model, NEW, tmp_path / "1.onnx")
    with_card(tmp_path / "1.onnx", CARD, tmp_path / "2.onnx")
    with_card(tmp_path / "2.onnx", NEW, tmp_path / "3.onnx")
    assert (tmp_path / "3.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()


def test_a_card_that_stands_in_the_file_twice_or_the_other_way_round_is_no_silent_failure(tmp_path: Path) -> None:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    data = model.SerializeToString()
    value, key = CARD.to_json().encode(), CARD_KEY.encode()
    size = bytes([len(value) & 0x7F | 0x80, len(value) >> 7])
    entry = b"\x12" + size + value + b"\x0a" + bytes([len(key)]) + key  # the value before the key
    length = bytes([len(entry) & 0x7F | 0x80, len(entry) >> 7])
    (tmp_path / "odd.onnx").write_bytes(data + b"\x72" + length + entry)
    assert read_card(tmp_path / "odd.onnx") == CARD
    with pytest.raises(WeightsError, match="export the model again"):
        with_card(tmp_path / "odd.onnx", NEW, tmp_path / "copy.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.onnx"]


def test_what_cannot_be_is_refused(model: Path, tensors: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="found 1 classes; expected 2"):
        with_card(model, card_with(class_names=("red",)), tmp_path / "copy.onnx")
    with pytest.raises(UsageError, match=r"expected a \.onnx file"):
        with_card(model, NEW, tmp_path / "copy.safetensors")
    with pytest.raises(UsageError, match="never changed"):
        with_card(model, NEW, tmp_path / "." / "m.onnx")
    with pytest.raises(WeightsError, match="no detkit model card"):
        with_card(write_fake_model(tmp_path / "bare.onnx", None), NEW, tmp_path / "copy.onnx")
    with pytest.raises(RunError, match="cannot be written"):
        with_card(tensors, NEW, tmp_path / "nowhere" / "copy.safetensors")
    assert not (tmp_path / "copy.onnx").exists()
