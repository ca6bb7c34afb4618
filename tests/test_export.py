"""Export: the ONNX graph gives the network's boxes, for any batch and canvas, without PyTorch; or it is not kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import onnxruntime  # noqa: E402

from detkit.engines import Outputs  # noqa: E402
from detkit.engines.onnx import OnnxEngine  # noqa: E402
from detkit.engines.torch import TorchEngine  # noqa: E402
from detkit.errors import RunError, WeightsError  # noqa: E402
from detkit.export import Proof, compare_outputs, export_onnx, trace  # noqa: E402
from detkit.models.build import build  # noqa: E402
from detkit.models.checkpoint import load_model, save_model, save_tensors  # noqa: E402
from detkit.models.yolo import Yolo  # noqa: E402
from detkit.weights import CARD_KEY, ModelCard, read_card  # noqa: E402

ANCHORS = (((8.0, 8.0), (8.0, 24.0)), ((32.0, 32.0), (48.0, 24.0)), ((80.0, 60.0), (120.0, 90.0)))
CARD = ModelCard(
    "yolo",
    {"backbone": "lenet5", "width": 16, "anchors_per_scale": 2},
    ("cat", "train"),
    (64, 96),
    anchors_wh_px=ANCHORS,
)


def trained() -> Yolo:
    """A network whose batch norms and outputs are far from their first values."""
    torch.manual_seed(0)
    model = build(CARD)
    with torch.no_grad():
        model.train()(torch.randint(0, 256, (4, 64, 96, 3), dtype=torch.uint8))
        for head in model.heads:
            head.to_box.weight.normal_(0, 0.5)
            head.to_class.weight.normal_(0, 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Yolo:
    return trained()


@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 64, 96), (2, 128, 32)])
def test_same_boxes_for_any_batch_and_canvas(model: Yolo, tmp_path: Path, shape: tuple[int, int, int]) -> None:
    proof = export_onnx(model, CARD, tmp_path / "m.onnx")
    assert proof.box_px < 0.01
    assert proof.score < 1e-5
    canvases = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    assert [i.name for i in session.get_inputs()] == ["images"]
    boxes, scores = session.run(["boxes", "scores"], {"images": canvases})
    ours = TorchEngine(model, CARD).run(canvases)
    assert boxes.shape == ours.boxes_xyxy.shape
    assert compare_outputs(ours, Outputs(boxes, scores)).box_px < 0.01


def test_the_card_travels_in_both_files(model: Yolo, tmp_path: Path) -> None:
    export_onnx(model, CARD, tmp_path / "m.onnx")
    save_model(tmp_path / "m.safetensors", model, CARD)
    assert read_card(tmp_path / "m.onnx") == read_card(tmp_path / "m.safetensors") == CARD
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_mode_of_the_network_does_not_leak_into_the_export(model: Yolo, tmp_path: Path) -> None:
    before = TorchEngine(model, CARD).run(np.zeros((1, 64, 96, 3), np.uint8))
    export_onnx(model.train(), CARD, tmp_path / "m.onnx")
    assert not model.training
    after = OnnxEngine(tmp_path / "m.onnx").run(np.zeros((1, 64, 96, 3), np.uint8))
    assert compare_outputs(before, after).box_px < 0.01


def test_an_export_that_differs_is_not_kept(model: Yolo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "compare_outputs", lambda a, b: Proof(0.2, 0.0))
    with pytest.raises(RunError, match=r"0\.2 px"):
        export_onnx(model, CARD, tmp_path / "m.onnx")
    monkeypatch.setattr(trace, "compare_outputs", lambda a, b: Proof(float("nan"), 0.0))
    with pytest.raises(RunError):
        export_onnx(model, CARD, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": CARD.architecture | {"width": "wide"}},
        {"architecture": CARD.architecture | {"width": -1}},
        {"architecture": CARD.architecture | {"depth": 3}},
        {"anchors_wh_px": ANCHORS[:2]},
        {"anchors_wh_px": (*ANCHORS[:2], ANCHORS[2][:1])},
        {"task": "yodel"},
    ],
)
def test_a_card_that_describes_no_network_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WeightsError):
        build(replace(CARD, **changes))  # type: ignore[arg-type]


def test_safetensors_round_trip_is_exact(model: Yolo, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", model, CARD)
    again, card = load_model(tmp_path / "m.safetensors")
    assert card == CARD
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_tensors_that_do_not_fit_the_card_are_named(model: Yolo, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    name = "heads.0.to_box.weight"
    path, card = tmp_path / "m.safetensors", {CARD_KEY: CARD.to_json()}
    save_tensors(path, {k: v for k, v in state.items() if k != name}, card)
    with pytest.raises(WeightsError, match=f"lacks the tensor {name}"):
        load_model(path)
    save_tensors(path, state | {name: torch.zeros(3, 3)}, card)
    with pytest.raises(WeightsError, match="another shape"):
        load_model(path)
    foreign = replace(CARD, architecture=CARD.architecture | {"backbone": "resnet19"})
    save_tensors(path, state, {CARD_KEY: foreign.to_json()})
    with pytest.raises(WeightsError, match="resnet19"):
        load_model(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError):
        load_model(path)
