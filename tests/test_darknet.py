"""Darknet's networks: layers and decoding by hand, a loss that reaches every box, and other classes on old boxes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from small_darknet import EVERYTHING, NAMES, REGION, SQUARED, YOLO, write_model  # noqa: E402

from detkit.detections import Detections  # noqa: E402
from detkit.engines.torch import TorchEngine  # noqa: E402
from detkit.errors import WeightsError  # noqa: E402
from detkit.export import export_onnx  # noqa: E402
from detkit.models.build import build  # noqa: E402
from detkit.models.checkpoint import load_model, load_state, save_model  # noqa: E402
from detkit.models.darknet.blocks import activated, plain_layer  # noqa: E402
from detkit.models.darknet.layers import MaxPool, Reorg, Route, ScaleChannels, Shortcut, Upsample  # noqa: E402
from detkit.models.darknet.network import Darknet, DarknetSettings, Raw  # noqa: E402
from detkit.models.darknet.weights import import_darknet  # noqa: E402


def network(cfg: str, **settings: float) -> Darknet:
    torch.manual_seed(0)
    return Darknet(DarknetSettings(cfg=cfg, **settings), NAMES).eval()


def level(*rows: list[float], grid: tuple[int, int] = (1, 2)) -> torch.Tensor:
    """One head's raw output [1, A, 1, 2, 7]: a row per anchor, the same in each cell."""
    return torch.tensor(rows)[None, :, None, None].expand(1, len(rows), *grid, 7).clone()


def truth(*boxes: list[float], labels: tuple[int, ...] | None = None, crowd: bool = False) -> Detections:
    found = Detections((32, 64), np.array(boxes).reshape(-1, 4), np.array(labels or [0] * len(boxes), int))
    return replace(found, crowd=np.ones(len(boxes), bool)) if crowd else found


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("linear", -3, -3),
        ("leaky", -3, -0.3),
        ("leaky", 3, 3),
        ("relu", -3, 0),
        ("relu6", 7, 6),
        ("mish", 1, math.tanh(math.log(1 + math.e))),
        ("swish", 1, 1 / (1 + math.exp(-1))),
        ("logistic", math.log(3), 0.75),
    ],
)
def test_activations(name: str, at: float, value: float) -> None:
    assert activated(torch.tensor([float(at)]), name).item() == pytest.approx(value, abs=1e-6)


def test_max_pool_of_stride_1_looks_right_and_down() -> None:
    x = torch.tensor([[[[1.0, 5, 2], [3, 4, 0], [-9, -8, -7]]]])
    out = plain_layer(MaxPool(2, 1, 1), x, [])
    assert out[0, 0].tolist() == [[5, 5, 2], [4, 4, 0], [-8, -7, -7]]  # padding is never the largest


def test_max_pool_of_an_odd_side_keeps_the_last_column() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert plain_layer(MaxPool(2, 2, 1), x, [])[0, 0].tolist() == [[4, 5], [7, 8]]
    assert plain_layer(MaxPool(3, 1, 2), x, [])[0, 0].tolist() == [[4, 5, 5], [7, 8, 8], [7, 8, 8]]
    assert plain_layer(MaxPool(2, 2, 0), x, [])[0, 0].tolist() == [[4]]


def test_route_shortcut_scale_and_upsample() -> None:
    a, b = torch.arange(4.0).view(1, 4, 1, 1), torch.arange(10.0, 12).view(1, 2, 1, 1)
    assert plain_layer(Route((0, 1), 1, 0), a, [a, b]).flatten().tolist() == [0, 1, 2, 3, 10, 11]
    assert plain_layer(Route((0, 1), 2, 1), a, [a, b]).flatten().tolist() == [2, 3, 11]
    assert plain_layer(Shortcut((0, 1), "linear"), a, [a, a + 1]).flatten().tolist() == [1, 4, 7, 10]
    wide = torch.tensor([[[[1.0, -2]], [[3, 4]]]])
    scaled = plain_layer(ScaleChannels((0,), "relu"), torch.tensor([2.0, 0.5]).view(1, 2, 1, 1), [wide])
    assert scaled.flatten().tolist() == [2, 0, 1.5, 2]
    assert plain_layer(Upsample(2), wide, [])[0, 0].tolist() == [[1, 1, -2, -2]] * 2


def test_reorg_moves_numbers_as_darknet_does() -> None:
    channels, height, width, stride = 8, 4, 6, 2
    x = np.arange(channels * height * width, dtype=np.float32)
    expected = np.zeros_like(x)  # loops over flat memory: the map is read with s x s fewer, larger channels
    shallow = channels // stride**2
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                offset, c = divmod(k, shallow)
                row, column = j * stride + offset // stride, i * stride + offset % stride
                expected[i + width * (j + height * k)] = x[column + width * stride * (row + height * stride * c)]
    out = plain_layer(Reorg(stride), torch.from_numpy(x).view(1, channels, height, width), [])
    assert out.shape == (1, channels * 4, height // 2, width // 2)
    assert np.array_equal(out.flatten().numpy(), expected)


def test_shapes_on_other_canvases_than_the_cfgs() -> None:
    model = network(EVERYTHING)
    boxes, scores, points = model.decode(model(torch.zeros(2, 128, 96, 3, dtype=torch.uint8)))
    assert boxes.shape == (2, 2 * 8 * 6 + 2 * 16 * 12, 4)
    assert scores.shape == (2, 2 * 8 * 6 + 2 * 16 * 12, 2)
    assert points is None


def test_the_network_sees_rgb_between_0_and_1() -> None:
    model = network(YOLO)
    seen: list[torch.Tensor] = []
    model.conv_layer(0).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    canvas = torch.zeros(1, 32, 64, 3, dtype=torch.uint8)
    canvas[..., 0] = 255
    model(canvas)
    assert seen[0][0].amax((1, 2)).tolist() == [1, 0, 0]


def test_decoding_by_hand() -> None:
    """Centre (0.75 - 0.5) x 1.2 + 0.5 = 0.8 of a cell along x; twice the anchor's width."""
    row = [math.log(3), 0, math.log(2), 0, 0, math.log(3), 0]
    boxes, scores, _ = network(YOLO).decode(Raw((level(row, row),)))
    assert boxes.shape == (1, 4, 4)
    centre = 0.8 * 32
    expected = [[centre - 10, 6, centre + 10, 26], [centre - 30, 12, centre + 30, 20]]
    expected += [[x1 + 32, y1, x2 + 32, y2] for x1, y1, x2, y2 in expected]  # the second cell after both anchors
    assert torch.allclose(boxes[0], torch.tensor(expected), atol=1e-4)
    assert torch.allclose(scores[0], torch.tensor([0.5 * 0.75, 0.5 * 0.5]).expand(4, 2))


def test_decoding_of_squared_sides_and_of_classes_that_exclude_each_other() -> None:
    boxes, scores, _ = network(SQUARED).decode(Raw((level([0, 0, 0, math.log(3), 0, 0, 0], grid=(2, 4)),)))
    assert boxes[0, 0].tolist() == pytest.approx([8 - 5, 8 - 22.5, 8 + 5, 8 + 22.5])  # 1 and 1.5^2 anchors
    assert scores[0, 0].tolist() == pytest.approx([0.25, 0.25])
    row = [0, 0, 0, 0, 0, 0, math.log(3)]
    boxes, scores, _ = network(REGION).decode(Raw((level(row, row),)))
    assert boxes[0, 0].tolist() == pytest.approx([16 - 24, 16 - 32, 16 + 24, 16 + 32])  # anchors in cells of 32 px
    assert scores[0, 0].tolist() == pytest.approx([0.5 * 0.25, 0.5 * 0.75])


@pytest.mark.parametrize("cfg", [YOLO, REGION, SQUARED])
def test_the_loss_falls_to_its_floor_for_the_right_answer(cfg: str) -> None:
    """A head that says exactly what is there has no box loss, hardly a class loss and the objectness it should."""
    model = network(cfg, max_shape_ratio=1.5)
    head = model.cfg.heads[0]
    width, height = head.anchors_wh_px[0]
    row, column = 0, 1
    centre_x, centre_y = (column + 0.5) * head.stride_px, (row + 0.5) * head.stride_px
    box = [centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2]
    rows = [[0.0, 0, 0, 0, -12, -12, -12]] * len(head.anchors_wh_px)
    right = level(*rows, grid=(32 // head.stride_px, 64 // head.stride_px))
    right[0, 0, row, column, 4:] = torch.tensor([12.0, -12, 12])
    expected = truth(box, labels=(1,))
    good = model.loss(Raw((right,)), [expected])
    assert good["box"].item() == pytest.approx(0, abs=1e-5)
    assert good["class"].item() < 1e-4
    assert good["objectness"].item() < 1e-4
    wrong = right.clone()
    wrong[0, 0, row, column] = torch.tensor([0.0, 0, -2, -2, -12, 12, -12])
    bad = model.loss(Raw((wrong,)), [expected])
    assert all(bad[name] > good[name] for name in good)


def test_the_loss_of_no_boxes_and_of_crowds() -> None:
    model = network(YOLO)
    out = Raw((level([0.0] * 7, [0.0] * 7),))
    empty = model.loss(out, [truth()])
    assert (empty["box"].item(), empty["class"].item()) == (0, 0)
    assert empty["objectness"].item() == pytest.approx(0.4 * 5 * math.log(2))
    crowd = model.loss(out, [truth([0, 0, 64, 32], crowd=True)])
    assert crowd["objectness"].item() == 0


def test_every_box_has_an_anchor_that_can_reach_it() -> None:
    """Only the cell that holds the midpoint: the centre goes no further than 0.6 cells; a tiny box has its nearest."""
    model = network(YOLO.replace("scale_x_y=1.2", "scale_x_y=1.0"))
    out = Raw((level([0.0] * 7, [0.0] * 7),))
    for box in ([30, 10, 31, 12], [0, 0, 64, 32], [31.9, 0, 32.1, 32]):
        answering = model.answering(out, [truth(box)])[0]
        assert len(answering) >= 1, box
        middle = (answering.boxes_xyxy[:, 0] + answering.boxes_xyxy[:, 2]) / 2
        assert set(middle.tolist()) == {16.0 if (box[0] + box[2]) / 2 < 32 else 48.0}
    wider = network(YOLO.replace("scale_x_y=1.2", "scale_x_y=2.0"))
    assert len(wider.answering(out, [truth([28, 0, 34, 32])])[0]) > len(
        model.answering(out, [truth([28, 0, 34, 32])])[0]
    )


def test_training_steps_lower_the_loss_for_every_kind_of_head() -> None:
    model = network(EVERYTHING).train()
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    boxes = Detections((64, 96), np.array([[4, 6, 30, 30], [50, 20, 80, 60]]), np.array([0, 1]))
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    totals = []
    for _ in range(25):
        total = sum(model.loss(model(images), [boxes, boxes]).values())
        optimizer.zero_grad()
        total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]


def test_the_backbone_ends_where_the_second_head_branches_off() -> None:
    model = network(EVERYTHING)
    names = [sorted(map(int, stage)) for stage in model.backbone.stages]
    assert names == [[0, 1, 3, 4], [], [11], []]  # by stride 2, 16; a layer of one cell stays where its map was
    assert sorted(model.heads) == ["12", "17"]
    assert not model.neck
    extra = "padding=1\nactivation=leaky\n"
    longer = EVERYTHING.replace(extra, extra + "[convolutional]\nfilters=12\nactivation=relu\n")
    model = network(longer.replace("layers=-3", "layers=-4"))
    assert [sorted(map(int, stage)) for stage in model.backbone.stages] == names
    assert sorted(model.neck) == ["12"]
    single = network(YOLO)
    assert [sorted(stage) for stage in single.backbone.stages] == [[], [], [], ["0"]]


def test_a_card_brings_the_network_back(tmp_path: Path) -> None:
    model, card = import_darknet(write_model(tmp_path))
    save_model(tmp_path / "net.safetensors", model, card)
    again, card_again = load_model(tmp_path / "net.safetensors")
    assert card_again == card
    canvas = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    one, two = (TorchEngine(m, card).run(canvas) for m in (model, again))
    assert np.array_equal(one.boxes_xyxy, two.boxes_xyxy)
    assert np.array_equal(one.scores, two.scores)


def test_a_card_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, card = import_darknet(write_model(tmp_path))
    with pytest.raises(WeightsError, match="those of the cfg"):
        build(replace(card, anchors_wh_px=card.anchors_wh_px[:1]))
    with pytest.raises(WeightsError, match="unknown section"):
        build(replace(card, architecture={"cfg": card.architecture["cfg"].replace("[reorg]", "[lstm]")}))
    with pytest.raises(WeightsError, match="a name"):
        build(replace(card, architecture={"cfg": 3}))


def test_other_classes_keep_what_is_known_of_boxes(tmp_path: Path) -> None:
    model, card = import_darknet(write_model(tmp_path))
    save_model(tmp_path / "net.safetensors", model, card)
    other = build(replace(card, class_names=("a", "b", "c")))
    assert isinstance(other, Darknet)
    load_state(other, tmp_path / "net.safetensors", left_out=other.class_layers)
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    boxes, scores, _ = other.eval().decode(other(images))
    assert torch.equal(boxes, model.decode(model(images))[0])
    assert scores.shape[2] == 3


def test_a_box_that_explodes_ends_far_outside() -> None:
    """e^10 anchors is 220,000 px: rounding there is more than an export may differ by."""
    boxes, _, _ = network(YOLO).decode(Raw((level([0, 0, 50.0, 0, 0, 0, 0], [0.0] * 7),)))
    assert boxes[0, 0].tolist() == [-8 * 64, 6, 8 * 64, 26]


def test_the_export_proves_itself_at_other_sizes_too(tmp_path: Path) -> None:
    from detkit.engines.onnx import OnnxEngine

    model, card = import_darknet(write_model(tmp_path))
    with torch.no_grad():
        model.heads["12"].to_box.bias[2] = 50.0  # the first anchor's boxes explode: cut off where the canvas says
    proof = export_onnx(model, card, tmp_path / "net.onnx")
    assert proof.box_px < 0.01
    canvas = np.random.default_rng(0).integers(0, 256, (1, 128, 160, 3), dtype=np.uint8)
    one, two = OnnxEngine(tmp_path / "net.onnx").run(canvas), TorchEngine(model, card).run(canvas)
    assert two.boxes_xyxy[..., 2].max() == 8 * 160
    assert np.allclose(one.boxes_xyxy, two.boxes_xyxy, atol=0.01)
    assert np.allclose(one.scores, two.scores, atol=1e-4)


def test_settings_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="max_shape_ratio"):
        DarknetSettings(max_shape_ratio=1.0)
