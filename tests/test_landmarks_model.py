"""The network of points: decoding by hand, a loss that leaves unlabelled points alone, the card, and the export."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import onnxruntime  # noqa: E402

from detkit.detections import Detections  # noqa: E402
from detkit.engines import Outputs  # noqa: E402
from detkit.engines.onnx import OnnxEngine  # noqa: E402
from detkit.engines.torch import TorchEngine  # noqa: E402
from detkit.errors import WeightsError  # noqa: E402
from detkit.export import compare_outputs, export_onnx  # noqa: E402
from detkit.models.build import architecture, build, with_architecture  # noqa: E402
from detkit.models.checkpoint import load_model, save_model  # noqa: E402
from detkit.models.landmarks import Landmarks, LandmarkSettings, Raw  # noqa: E402
from detkit.models.yolo import YoloSettings  # noqa: E402
from detkit.weights import ModelCard  # noqa: E402

SETTINGS = LandmarkSettings("lenet5", pretrained=False, width=8)
CARD = ModelCard(
    "landmarks",
    architecture(SETTINGS),
    ("face",),
    (64, 64),
    point_names=("left_eye", "right_eye", "nose"),
    flip_pairs=((0, 1),),
    crop_margin=0.1,
)


@pytest.fixture(scope="module")
def model() -> Landmarks:
    torch.manual_seed(0)
    model = build(CARD)
    with torch.no_grad():
        model.train()(torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8))
        model.heads[-1].weight.normal_(0, 1)
    return model.eval()


def truth(*points: list[float], size: int = 64) -> Detections:
    return Detections((size, size), [[0, 0, size, size]], [0], points_xyv=[points])


def raw(batch: int = 1, rows: int = 4, columns: int = 6) -> Raw:
    return Raw(torch.zeros(batch, 3, 4, rows, columns))


def test_shapes_on_a_canvas_that_is_not_square(model: Landmarks) -> None:
    out = model(torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8))
    assert out.maps.shape == (2, 3, 4, 8, 12)
    boxes, scores, points = model.decode(out)
    assert boxes.tolist() == [[[0, 0, 96, 64]]] * 2
    assert scores.shape == (2, 1, 1)
    assert points.shape == (2, 1, 3, 3)
    assert ((points[..., 2] > 0) & (points[..., 2] < 1)).all()
    torch.testing.assert_close(scores[:, 0, 0], points[:, 0, :, 2].mean(1))


def test_decode_by_hand(model: Landmarks) -> None:
    out = raw()
    # an even heat: the mean of all cell centres, moved by the offset all of them give
    out.maps[0, 0, 1], out.maps[0, 0, 2], out.maps[0, 0, 3] = 0.5, -0.25, math.log(3)
    out.maps[0, 1, 0, 3, 5] = 50  # one cell alone: column 5, row 3
    out.maps[0, 1, 1, 3, 5], out.maps[0, 1, 3, 3, 5] = 0.25, -50
    out.maps[0, 2, 0, 0, 0] = out.maps[0, 2, 0, 0, 1] = 50  # two cells alike
    boxes, scores, points = model.decode(out)
    assert boxes[0, 0].tolist() == [0, 0, 48, 32]
    assert points[0, 0, 0].tolist() == pytest.approx([(3 + 0.5) * 8, (2 - 0.25) * 8, 0.75])
    assert points[0, 0, 1].tolist() == pytest.approx([5.75 * 8, 3.5 * 8, 0], abs=1e-5)
    assert points[0, 0, 2].tolist() == pytest.approx([8, 4, 0.5])
    assert scores.item() == pytest.approx((0.75 + 0 + 0.5) / 3)


def test_losses_by_hand() -> None:
    out = raw(1, 8, 8)  # every point is found in the middle, (32, 32)
    wanted = [truth([32 + 0.64, 32, 2], [32, 32 - 12.8, 1], [5, 5, 0])]  # 1 and 20 hundredths off; not labelled
    wing = Landmarks(replace(SETTINGS, visibility_gain=1), "a", CARD.point_names).loss(out, wanted)
    # w = 10, epsilon = 2: w ln(1 + x / epsilon) below w, x - (w - w ln(1 + w / epsilon)) beyond
    assert wing["points"].item() == pytest.approx((10 * math.log(1.5) + 20 - (10 - 10 * math.log(6))) / 2, rel=1e-4)
    assert wing["visibility"].item() == pytest.approx(math.log(2))  # unsure of both labelled points
    smooth = Landmarks(replace(SETTINGS, loss="smooth_l1", point_gain=2), "a", CARD.point_names).loss(out, wanted)
    assert smooth["points"].item() == pytest.approx(2 * (0.5 + 19.5) / 2, rel=1e-4)


@pytest.mark.parametrize("loss", ["wing", "smooth_l1"])
def test_points_that_are_not_labelled_teach_nothing(loss: str) -> None:
    model = Landmarks(replace(SETTINGS, loss=loss), "a", CARD.point_names)
    torch.manual_seed(1)
    maps = torch.randn(2, 3, 4, 8, 8, requires_grad=True)
    truths = [truth([20, 20, 2], [30, 40, 0], [50, 10, 1]), truth([0, 0, 0], [0, 0, 0], [0, 0, 0])]
    sum(model.loss(Raw(maps), truths).values()).backward()
    assert maps.grad.isfinite().all()
    moved = maps.grad.abs().sum((3, 4)) > 0  # [B, P, 4]
    assert moved[0, 0].all()
    assert moved[0, 2].all()
    assert not moved[0, 1].any()
    assert not moved[1].any()


def test_a_perfect_answer_has_no_error_and_a_finite_gradient() -> None:
    model = Landmarks(SETTINGS, "a", CARD.point_names)
    maps = torch.zeros(1, 3, 4, 8, 8, requires_grad=True)
    parts = model.loss(Raw(maps), [truth(*[[32, 32, 2]] * 3)])
    assert parts["points"].item() == 0
    sum(parts.values()).backward()
    assert maps.grad.isfinite().all()


def test_every_weight_learns() -> None:
    """No parameter without a gradient: several processes could not train together."""
    model = build(CARD)
    out = model.train()(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    sum(model.loss(out, [truth([20, 20, 2], [30, 40, 2], [50, 10, 2])] * 2).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_it_learns_to_point_at_a_dot() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Landmarks(replace(SETTINGS, width=16), ("dot",), ("dot",)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def dots(count: int) -> tuple[torch.Tensor, list[Detections]]:
        at = rng.integers(4, 28, (count, 2))
        images = np.zeros((count, 32, 32, 3), np.uint8)
        for image, (x, y) in zip(images, at, strict=True):
            image[y - 3 : y + 3, x - 3 : x + 3] = 255
        return torch.from_numpy(images), [truth([float(x), float(y), 2], size=32) for x, y in at]

    for _ in range(40):
        images, truths = dots(16)
        loss = sum(model.loss(model(images), truths).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, truths = dots(32)
    with torch.no_grad():
        found = model.decode(model(images))[2][:, 0, 0, :2].numpy()
    wanted = np.array([t.points_xyv[0, 0, :2] for t in truths])
    assert np.hypot(*(found - wanted).T).mean() < 2.5  # a guess in the middle is 9 px off


def test_the_export_gives_the_same_points(model: Landmarks, tmp_path: Path) -> None:
    proof = export_onnx(model, CARD, tmp_path / "m.onnx")
    assert proof.box_px < 0.01
    assert proof.score < 1e-5
    canvases = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    ours, theirs = TorchEngine(model, CARD).run(canvases), OnnxEngine(tmp_path / "m.onnx").run(canvases)
    assert theirs.points_xyv.shape == (5, 1, 3, 3)
    assert ours.points_xyv.std() > 1
    assert compare_outputs(ours, theirs).box_px < 0.01
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    wide = np.random.default_rng(2).integers(0, 256, (1, 64, 128, 3), dtype=np.uint8)
    other = Outputs(*session.run(["boxes", "scores", "points"], {"images": wide}))
    assert compare_outputs(TorchEngine(model, CARD).run(wide), other).box_px < 0.01
    assert [output.name for output in session.get_outputs()] == ["boxes", "scores", "points"]


def test_a_difference_in_points_alone_is_seen(model: Landmarks) -> None:
    canvases = np.zeros((2, 64, 64, 3), np.uint8)
    ours = TorchEngine(model, CARD).run(canvases)
    for shift, (box_px, score) in {(0.5, 0, 0): (0.5, 0), (0, 0, 0.25): (0, 0.25)}.items():
        moved = ours._replace(points_xyv=ours.points_xyv + np.float32(shift))
        proof = compare_outputs(ours, moved)
        assert (proof.box_px, proof.score) == pytest.approx((box_px, score), abs=1e-5)


def test_safetensors_and_card_build_the_network_again(model: Landmarks, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", model, CARD)
    again, card = load_model(tmp_path / "m.safetensors")
    assert card == CARD
    assert isinstance(again, Landmarks)
    canvases = np.zeros((1, 64, 64, 3), np.uint8)
    both = TorchEngine(model, CARD).run(canvases), TorchEngine(again, card).run(canvases)
    np.testing.assert_array_equal(both[0].points_xyv, both[1].points_xyv)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"point_names": ()}, "points in the model card; found none"),
        ({"architecture": CARD.architecture | {"anchors_per_scale": 3}}, "anchors_per_scale"),
        ({"architecture": CARD.architecture | {"width": 1}}, "width is 1"),
        ({"architecture": CARD.architecture | {"width": True}}, "a whole number"),
    ],
)
def test_a_card_that_describes_no_network_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(WeightsError) as caught:
        build(replace(CARD, **changes))
    assert said in str(caught.value)


def test_a_card_of_another_task_is_refused() -> None:
    with pytest.raises(WeightsError, match="found 'landmarks'; expected 'yolo'"):
        with_architecture(YoloSettings(), CARD)
    with pytest.raises(WeightsError, match="'landmarks'"):
        build(CARD, YoloSettings())
    assert with_architecture(LandmarkSettings(), CARD).width == 8


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="'wing' or 'smooth_l1'"):
        LandmarkSettings(loss="l2")
    with pytest.raises(ValueError, match="at least 2"):
        LandmarkSettings(width=1)
