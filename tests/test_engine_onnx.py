"""The onnxruntime engine: what the graph computes, what is refused, and which engine opens which file."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_model import CANVAS, CARD, QUARTERS_XYXY, card_with, write_fake_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_weights import write_safetensors

from detkit.engines import open_engine
from detkit.engines.onnx import OnnxEngine
from detkit.errors import MissingExtraError, WeightsError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_fake_model(tmp_path / "fake.onnx")


def test_nothing_is_sent_or_left_behind(model: Path, tmp_path: Path) -> None:
    """In a fresh process: onnxruntime keeps no device id and no records of runs in the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    script = f"""
import numpy as np
from detkit.engines.onnx import OnnxEngine
OnnxEngine({str(model)!r}).run(np.zeros((1, {CANVAS}, {CANVAS}, 3), np.uint8))
"""
    environment = {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_are_the_graphs(model: Path, batch: int) -> None:
    canvases = np.random.default_rng(0).integers(0, 256, (batch, CANVAS, CANVAS, 3), dtype=np.uint8)
    outputs = OnnxEngine(model).run(canvases)
    quarters = canvases.reshape(batch, 2, CANVAS // 2, 2, CANVAS // 2, 3).mean(axis=(2, 4))  # [B, 2, 2, 3]
    np.testing.assert_allclose(outputs.scores, quarters.reshape(batch, 4, 3)[..., [0, 2]] / 255, rtol=1e-5)
    np.testing.assert_array_equal(outputs.boxes_xyxy, np.broadcast_to(QUARTERS_XYXY, (batch, 4, 4)))
    assert outputs.points_xyv is None
    assert outputs.scores.dtype == outputs.boxes_xyxy.dtype == np.float32


def test_a_good_model_says_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    OnnxEngine(model).run(np.zeros((1, CANVAS, CANVAS, 3), np.uint8))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"AveragePool", b"Average\xff\xffol"), (b"\x12\x01B", b"\x12\x01\xc2")],
    ids=["an operator", "a size"],
)
def test_a_name_that_is_no_text_is_refused_in_silence(
    old: bytes, new: bytes, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model.write_bytes(model.read_bytes().replace(old, new))
    with pytest.raises(WeightsError):
        OnnxEngine(model)
    assert capfd.readouterr() == ("", "")


def test_threads_and_memory_layout_change_nothing(model: Path) -> None:
    canvases = np.random.default_rng(0).integers(0, 256, (2, 3, CANVAS, CANVAS), dtype=np.uint8).transpose(0, 2, 3, 1)
    one, two = (OnnxEngine(model, threads).run(canvases) for threads in (1, 2))
    np.testing.assert_array_equal(one.scores, two.scores)


@pytest.mark.parametrize(
    ("graph", "card", "said"),
    [
        ({}, card_with(class_names=("red", "blue", "green")), "one for each class name"),
        ({"scores": "logits"}, CARD, "the network's outputs"),
        ({"images": "pixels_in"}, CARD, "the network's input"),
        ({"image_type": onnx.TensorProto.FLOAT}, CARD, "the network's input"),
        ({}, card_with(input_hw=(32, 32)), "the network's input"),
    ],
)
def test_a_graph_that_contradicts_its_card_is_refused(graph: dict, card: object, said: str, tmp_path: Path) -> None:
    path = write_fake_model(tmp_path / "fake.onnx", card, **graph)
    with pytest.raises(WeightsError, match=said) as refused:
        OnnxEngine(path)
    assert str(path) in str(refused.value)


def test_a_damaged_graph_is_refused_without_a_word_on_stderr(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = onnx.load(model)
    loaded.graph.node[0].op_type = "NoSuchOperator"
    broken = tmp_path / "broken.onnx"
    onnx.save(loaded, broken)
    with pytest.raises(WeightsError, match="onnxruntime cannot load it") as refused:
        OnnxEngine(broken)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_a_network_that_fails_on_a_batch_says_so(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeightsError, match=r"fails on canvases of shape \(1, 32, 64, 3\)"):
        OnnxEngine(model).run(np.zeros((1, 32, 64, 3), np.uint8))
    assert capfd.readouterr() == ("", "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_runs_or_is_refused(data: st.DataObject, tmp_path: Path) -> None:
    path = write_fake_model(tmp_path / "damaged.onnx")
    damaged = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=3)):
        damaged[at] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    with contextlib.suppress(WeightsError):
        OnnxEngine(path, threads=1).run(np.zeros((1, CANVAS, CANVAS, 3), np.uint8))


def test_the_suffix_chooses_the_engine(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_engine(model).name == "onnxruntime"
    monkeypatch.delitem(sys.modules, "detkit.engines.torch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r'pip install "detkit-cv\[train\]"'):
        open_engine(write_safetensors(tmp_path / "m.safetensors", CARD))
    for name in ("m.pt", "m.txt"):
        with pytest.raises(WeightsError):
            open_engine(tmp_path / name)
