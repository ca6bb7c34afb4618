"""The localizer: decoding and loss by hand, an empty canvas that moves nothing but pc, the card, and the export."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from detkit.detections import Detections  # noqa: E402
from detkit.engines.onnx import OnnxEngine  # noqa: E402
from detkit.engines.torch import TorchEngine  # noqa: E402
from detkit.errors import WeightsError  # noqa: E402
from detkit.export import compare_outputs, export_onnx  # noqa: E402
from detkit.models.build import architecture, build, with_architecture  # noqa: E402
from detkit.models.checkpoint import load_model, save_model  # noqa: E402
from detkit.models.localize import Localizer, LocalizeSettings, Raw, _vote  # noqa: E402
from detkit.models.yolo import YoloSettings  # noqa: E402
from detkit.weights import ModelCard  # noqa: E402

SETTINGS = LocalizeSettings("lenet5", pretrained=False, width=4, hidden=16, pc_gain=1, box_gain=1, class_gain=1)
CARD = ModelCard("localize", architecture(SETTINGS), ("cat", "dog", "train"), (64, 64))
EMPTY = Detections.empty((64, 64), scored=False)
SURE = math.log(9)  # the logit of 0.9


@pytest.fixture(scope="module")
def model() -> Localizer:
    torch.manual_seed(0)
    model = build(CARD, SETTINGS)
    with torch.no_grad():
        model.train()(canvases(8))
        model.sides.weight.normal_(0, 1)
    return model.eval()


def canvases(count: int, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)


def truth(*box: float, label: int = 0) -> Detections:
    return Detections((64, 64), [box], [label])


def raw(*rows: list[float], width: int = 64, height: int = 64) -> Raw:
    return Raw(torch.tensor(rows), torch.tensor([[float(width), float(height)]] * len(rows)))


def test_shapes_on_a_canvas_that_is_not_square(model: Localizer) -> None:
    out = model(canvases(2, 64, 96))
    assert out.y.shape == (2, 8)
    assert out.canvas_wh.tolist() == [[96, 64]] * 2
    boxes, scores, points = model.decode(out)
    assert boxes.shape == (2, 1, 4)
    assert scores.shape == (2, 1, 3)
    assert points is None
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_decode_by_hand(model: Localizer) -> None:
    # centre (0.5, 0.9) and size (0.5, 0.1) of a canvas of 96 x 64; classes 1 : 1 : 2, an object with 0.9
    out = raw([SURE, 0.5, 0.9, 0.5, 0.1, 0, 0, math.log(2)], width=96)
    boxes, scores, _ = model.decode(out)
    assert boxes[0, 0].tolist() == pytest.approx([24, 0.85 * 64, 72, 0.95 * 64])
    assert scores[0, 0].tolist() == pytest.approx([0.225, 0.225, 0.45])


def test_votes_by_hand() -> None:
    maps = torch.zeros(2, 8, 2, 4)
    # the first canvas: all cells know alike, so each side is the mean of the cells' centres and of what they add
    maps[0, 0], maps[0, 1], maps[0, 2], maps[0, 3] = -1, -0.5, 1, 0.5
    # the second: of each side one cell alone knows
    maps[1, 4, 1, 0] = maps[1, 5, 0, 3] = maps[1, 6, 0, 3] = maps[1, 7, 1, 2] = 50
    maps[1, 0, 1, 0], maps[1, 1, 0, 3], maps[1, 3, 1, 2] = 0.25, 0.5, -0.5
    found = _vote(maps)
    assert found[0].tolist() == pytest.approx([0.5, 0.5, 0.6, 0.3])  # 0.3 of the canvas to a 1
    left, right, top, bottom = 0.125 + 0.075, 0.875, 0.25 + 0.15, 0.75 - 0.15
    assert found[1].tolist() == pytest.approx([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
    maps[1, 2, 0, 3] = -3  # the right side left of the left one: their order is mended
    assert _vote(maps)[1, [0, 2]].tolist() == pytest.approx([(0.2 - 0.025) / 2, 0.225])


@pytest.mark.parametrize("size", [32, 224, 256])
def test_the_head_reads_any_canvas(model: Localizer, size: int) -> None:
    assert model(canvases(1, size, size)).y.shape == (1, 8)


def test_losses_by_hand() -> None:
    # found: the middle half of the canvas; wanted: 6.4 px further right, 12.8 px higher a box
    out = raw([0, 0.5, 0.5, 0.5, 0.5, 0, 0, math.log(2)], [SURE, 0, 0, 0, 0, 0, 0, 0])
    truths = [truth(22.4, 9.6, 54.4, 54.4, label=2), EMPTY]
    wanted = {"squared": 1 + 4, "smooth_l1": 0.5 + 1.5}  # in tenths of 64 px: x off by 1, h off by 2
    shared, union = 25.6 * 32, 32 * 32 + 32 * 44.8 - 25.6 * 32
    for kind in ("squared", "smooth_l1", "iou"):
        parts = Localizer(replace(SETTINGS, box_loss=kind), CARD.class_names).loss(out, truths)
        assert parts["pc"].item() == pytest.approx((math.log(2) + math.log(10)) / 2)
        assert parts["class"].item() == pytest.approx(math.log(2))  # the third of 1 : 1 : 2; one object
        if kind != "iou":
            assert parts["box"].item() == pytest.approx(wanted[kind], rel=1e-4)
        else:  # 1 - IoU, and the penalties of centre and shape on top
            hull = (54.4 - 16) ** 2 + 44.8**2
            shape = 4 / math.pi**2 * (math.atan(32 / 44.8) - math.atan(1)) ** 2
            penalty = 6.4**2 / hull + shape**2 / (1 - shared / union + shape)
            assert parts["box"].item() == pytest.approx(1 - shared / union + penalty, rel=1e-3)


def test_gains_weigh_the_parts() -> None:
    out, truths = raw([0.3, 0.4, 0.5, 0.3, 0.4, 1, 2, 3]), [truth(1, 2, 30, 40)]
    plain = Localizer(SETTINGS, CARD.class_names).loss(out, truths)
    gains = replace(SETTINGS, pc_gain=2, box_gain=3, class_gain=0.5)
    weighed = Localizer(gains, CARD.class_names).loss(out, truths)
    ratios = {name: (weighed[name] / plain[name]).item() for name in plain}
    assert ratios == pytest.approx({"pc": 2, "box": 3, "class": 0.5})


@pytest.mark.parametrize("kind", ["squared", "smooth_l1", "iou"])
def test_an_empty_canvas_moves_nothing_but_pc(kind: str) -> None:
    """By hand on the last layer: d loss / d pc logit = sigmoid - 0, so its row moves by that times the hidden layer."""
    torch.manual_seed(0)
    model = Localizer(replace(SETTINGS, box_loss=kind, dropout=0), CARD.class_names).eval()
    hidden: list[torch.Tensor] = []
    model.dropout.register_forward_hook(lambda *args: hidden.append(args[2]))
    out = model(canvases(2))
    sum(model.loss(out, [EMPTY, EMPTY]).values()).backward()
    error = out.y[:, 0].sigmoid() / 2  # the mean of two canvases
    torch.testing.assert_close(model.pc.weight.grad[0], (error[:, None] * hidden[0]).sum(0))
    torch.testing.assert_close(model.pc.bias.grad[0], error.sum())
    assert model.pc.weight.grad.abs().min() > 0
    for still in (*model.sides.parameters(), *model.classes.parameters()):
        assert still.grad.abs().max() == 0  # exactly


@pytest.mark.parametrize("kind", ["squared", "smooth_l1", "iou"])
def test_of_a_mixed_batch_only_the_object_teaches_box_and_class(kind: str) -> None:
    model = Localizer(replace(SETTINGS, box_loss=kind), CARD.class_names)
    y = torch.randn(3, 8, requires_grad=True, generator=torch.Generator().manual_seed(0))
    out = Raw(y, torch.full((3, 2), 64.0))
    sum(model.loss(out, [EMPTY, truth(5, 6, 40, 60, label=1), EMPTY]).values()).backward()
    moved = y.grad != 0
    assert moved[:, 0].all()
    assert moved[1].all()
    assert not moved[[0, 2], 1:].any()


def test_every_weight_learns_even_from_empty_canvases() -> None:
    """No parameter without a gradient: several processes could not train together."""
    model = Localizer(SETTINGS, CARD.class_names)
    sum(model.loss(model(canvases(2)), [EMPTY, EMPTY]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_canvas_of_two_objects_is_our_own_mistake(model: Localizer) -> None:
    two = Detections((64, 64), [[0, 0, 9, 9], [20, 20, 40, 40]], [0, 1])
    with pytest.raises(AssertionError, match="one object or none"):
        model.loss(model(canvases(1)), [two])


def test_it_learns_to_frame_a_square_and_to_see_that_there_is_none() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Localizer(replace(SETTINGS, width=16, hidden=64, dropout=0.0), ("red", "blue")).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)

    def squares(count: int) -> tuple[torch.Tensor, list[Detections]]:
        images, truths = np.zeros((count, 64, 64, 3), np.uint8), []
        for number, image in enumerate(images):
            x, y, side, label = *rng.integers(2, 30, 2), rng.integers(16, 32), rng.integers(2)
            if number % 4:
                image[y : y + side, x : x + side] = ((255, 0, 0), (0, 0, 255))[label]
                truths.append(truth(x, y, x + side, y + side, label=label))
            else:
                truths.append(EMPTY)
        return torch.from_numpy(images), truths

    for _ in range(40):
        images, truths = squares(16)
        loss = sum(model.loss(model(images), truths).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, truths = squares(64)
    with torch.no_grad():
        boxes, scores, _ = model.decode(model(images))  # the batch norms have not seen enough batches to be fixed
    found = scores.sum((1, 2)).numpy() > 0.5
    assert (found == [len(t) == 1 for t in truths]).mean() > 0.9
    centres = (boxes[:, 0, :2] + boxes[:, 0, 2:]).numpy() / 2
    wanted = [t.boxes_xyxy[0].reshape(2, 2).mean(0) if len(t) else c for c, t in zip(centres, truths, strict=True)]
    assert np.hypot(*(centres - wanted).T).mean() < 5  # a guess in the middle is 9 px off
    named = [int(s[0].argmax()) == t.labels[0] for s, t in zip(scores, truths, strict=True) if len(t)]
    assert np.mean(named) > 0.9


def test_the_export_gives_the_same_boxes(model: Localizer, tmp_path: Path) -> None:
    proof = export_onnx(model, CARD, tmp_path / "m.onnx")
    assert proof.box_px < 0.01
    assert proof.score < 1e-5
    for height, width in ((64, 64), (96, 224)):
        images = np.random.default_rng(1).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        ours, theirs = TorchEngine(model, CARD).run(images), OnnxEngine(tmp_path / "m.onnx").run(images)
        assert theirs.boxes_xyxy.shape == (3, 1, 4)
        assert theirs.points_xyv is None
        assert ours.boxes_xyxy.std() > 1
        assert compare_outputs(ours, theirs).box_px < 0.01


def test_safetensors_and_card_build_the_network_again(model: Localizer, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", model, CARD)
    again, card = load_model(tmp_path / "m.safetensors")
    assert card == CARD
    images = canvases(1).numpy()
    both = TorchEngine(model, CARD).run(images), TorchEngine(again, card).run(images)
    np.testing.assert_array_equal(both[0].boxes_xyxy, both[1].boxes_xyxy)


def test_a_card_of_another_task_or_architecture_is_refused() -> None:
    with pytest.raises(WeightsError, match="found 'localize'; expected 'yolo'"):
        with_architecture(YoloSettings(), CARD)
    with pytest.raises(WeightsError, match="hidden"):
        build(replace(CARD, architecture=CARD.architecture | {"hidden": "wide"}))
    assert with_architecture(LocalizeSettings(), CARD).hidden == 16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"box_loss": "l2"}, "'squared', 'smooth_l1' or 'iou'"),
        ({"width": 0}, "width is 0; expected at least 1"),
        ({"box_gain": -1}, "box_gain is -1; expected at least 0"),
        ({"pc_gain": math.nan}, "pc_gain is nan"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LocalizeSettings(**changes)
