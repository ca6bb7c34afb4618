"""The window classifier: one set of weights as fully connected layers on windows and as convolutions on photos."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from small_windows import SHAPES, window_model  # noqa: E402
from torch.nn.utils import parameters_to_vector  # noqa: E402

from detkit.detections import Detections  # noqa: E402
from detkit.engines.onnx import OnnxEngine  # noqa: E402
from detkit.engines.torch import TorchEngine  # noqa: E402
from detkit.errors import UsageError, WeightsError  # noqa: E402
from detkit.export import export_onnx  # noqa: E402
from detkit.models.build import build  # noqa: E402
from detkit.models.checkpoint import load_model, save_model  # noqa: E402
from detkit.models.window import Raw, SlidingWindow, WindowSettings  # noqa: E402

CASES = [
    ("lenet5", 8, 64, 1),
    ("lenet5", 4, 40, 2),
    ("alexnet", 8, 60, 1),
    ("efficientnet_lite0", 8, 96, 1),
    ("efficientnet_lite0", 4, 33, 3),
    ("resnet18", 4, 50, 2),
    ("googlenet", 8, 64, 1),
    ("vgg16", 4, 48, 1),
]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("backbone", "stride", "window_px", "layers"), CASES)
def test_the_convolutions_give_every_window_what_the_fully_connected_layers_give_it(
    backbone: str, stride: int, window_px: int, layers: int
) -> None:
    model, _ = window_model(backbone, stride, window_px, layers)
    image = torch.from_numpy(noise(window_px + 2 * stride + 3, window_px + 4 * stride + 1))
    with torch.inference_mode():
        logits = model(image).logits[0]  # [3, rows, columns]
        rows, columns = (image.shape[1] - window_px) // stride + 1, (image.shape[2] - window_px) // stride + 1
        corners = [(y * stride, x * stride) for y in range(rows) for x in range(columns)]
        windows = torch.cat([image[:, y : y + window_px, x : x + window_px] for y, x in corners])
        alone = model.classify(windows)  # [rows * columns, 3]
    assert (rows, columns) == (3, 5)
    assert logits.std() > 0.5
    assert (logits[:, :rows, :columns].flatten(1).T - alone).abs().max() < 1e-4
    assert logits.shape[1:] == tuple(model.grid.cells(side) for side in image.shape[1:3])


def test_both_forms_share_one_set_of_weights() -> None:
    model, _ = window_model(layers=2)
    assert [tuple(layer.weight.shape) for layer in model.hidden] == [(16, 120 * 2 * 2), (16, 16)]
    assert not any("conv" in name for name in model.state_dict() if not name.startswith("backbone."))


def test_boxes_lie_in_the_middle_of_their_windows_in_the_shape_of_the_likeliest_class() -> None:
    model, _ = window_model()  # windows of 64 px, 8 apart
    logits = torch.zeros(1, 3, 2, 3)
    logits[0, 0] = 1.0  # cat
    logits[0, 1, 1, 2] = 5.0  # but dog in the last window
    boxes, scores, points = model.decode(Raw(logits))
    assert points is None
    assert boxes.shape == (1, 6, 4)
    assert boxes[0, 0].tolist() == [32 - 15, 32 - 20, 32 + 15, 32 + 20]
    assert boxes[0, 4].tolist() == [40 - 15, 40 - 20, 40 + 15, 40 + 20]  # second row, second column
    assert boxes[0, 5].tolist() == [48 - 25, 40 - 10, 48 + 25, 40 + 10]
    total = math.e + 2
    assert scores[0, 0].tolist() == pytest.approx([math.e / total, 1 / total], abs=1e-6)
    assert scores.sum(2).max() < 1  # the background has a share


def test_the_loss_is_the_cross_entropy_over_classes_and_background() -> None:
    model, _ = window_model()
    box = np.array([[10.0, 10, 50, 50]])
    truths = [Detections((64, 64), box, [1]), Detections.empty((64, 64), scored=False)]
    logits = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])[:, :, None, None]
    expected = (math.log(math.e**2 + 2) - 2 + math.log(3)) / 2
    assert model.loss(Raw(logits), truths)["class"].item() == pytest.approx(expected, abs=1e-6)


def test_every_part_of_the_network_learns() -> None:
    model, _ = window_model()
    before = parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()
    images = torch.from_numpy(np.concatenate([noise(64, 64, seed) for seed in range(4)]))
    truths = [Detections((64, 64), np.array([[10.0, 10, 50, 50]]), [0])] * 2 + [
        Detections.empty((64, 64), scored=False)
    ] * 2
    model.loss(model(images), truths)["class"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    optimizer.step()
    assert (parameters_to_vector(model.parameters()) != before).float().mean() > 0.5


def test_a_window_too_small_for_the_backbone_is_named_with_the_smallest() -> None:
    with pytest.raises(UsageError) as caught:
        SlidingWindow(WindowSettings("lenet5", pretrained=False), 53, ("cat",), [(30.0, 30.0)])
    assert str(caught.value) == (
        "the window is too small for lenet5 cut at stride 8; found 53 px; expected 54 px or more, or a smaller stride"
    )
    assert SlidingWindow(WindowSettings("lenet5", pretrained=False), 54, ("cat",), [(30.0, 30.0)]).side == 1


@pytest.mark.parametrize(
    ("key", "value"), [("stride", 5), ("hidden", 0), ("hidden_layers", 0), ("dropout", 1.0), ("dropout", -0.1)]
)
def test_a_bad_setting_is_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"window.{key}"):
        WindowSettings(**{key: value})


def test_a_model_comes_back_from_its_file_and_a_card_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model, card = window_model()
    save_model(tmp_path / "m.safetensors", model, card)
    again, card_again = load_model(tmp_path / "m.safetensors")
    assert isinstance(again, SlidingWindow)
    assert card_again == card
    images = torch.from_numpy(noise(70, 90))
    with torch.inference_mode():
        for ours, theirs in zip(model.decode(model(images)), again.decode(again(images)), strict=True):
            assert ours is theirs or torch.equal(ours, theirs)
    for wrong in (
        replace(card, anchors_wh_px=((SHAPES[0],),)),
        replace(card, input_hw=(64, 72)),
        replace(card, architecture=card.architecture | {"stride": 5}),
        replace(card, architecture=card.architecture | {"stride": 8.0}),
    ):
        with pytest.raises(WeightsError) as caught:
            build(wrong)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchEngine, Path]:
    model, card = window_model("efficientnet_lite0", 8, 96)
    path = tmp_path_factory.mktemp("window") / "window.onnx"
    export_onnx(model, card, path)
    return TorchEngine(model, card), path


@pytest.mark.parametrize("size_hw", [(96, 96), (97, 131), (240, 104)])
def test_the_export_slides_over_canvases_of_any_size(
    exported: tuple[TorchEngine, Path], size_hw: tuple[int, int]
) -> None:
    engine, path = exported
    images = np.concatenate([noise(*size_hw, seed) for seed in range(2)])
    ours, theirs = engine.run(images), OnnxEngine(path).run(images)
    rows, columns = ((side - 96) // 8 + 1 for side in size_hw)
    assert ours.scores.shape[:2] == theirs.scores.shape[:2]
    assert ours.scores.shape[1] >= rows * columns
    assert np.abs(ours.scores - theirs.scores).max() < 1e-4
    assert np.abs(ours.boxes_xyxy - theirs.boxes_xyxy).max() < 1e-3
    assert ours.scores.std() > 0.01


def test_openvino_gives_the_same(exported: tuple[TorchEngine, Path]) -> None:
    pytest.importorskip("openvino")
    from detkit.engines.openvino import OpenVinoEngine

    engine, path = exported
    images = noise(112, 128)
    ours, theirs = engine.run(images), OpenVinoEngine(path, precision="fp32").run(images)
    assert np.abs(ours.scores - theirs.scores).max() < 1e-4
    assert np.abs(ours.boxes_xyxy - theirs.boxes_xyxy).max() < 1e-3
