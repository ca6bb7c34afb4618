"""Torchvision's detectors behind detkit's face: its boxes, scores and losses, traced for any canvas, trainable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import onnx  # noqa: E402
import torchvision  # noqa: E402
from torch import nn  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402

from detkit.allocator import keep_freed_blocks  # noqa: E402
from detkit.cli.train import _overrides  # noqa: E402
from detkit.coco_names import COCO_NAMES  # noqa: E402
from detkit.config import load  # noqa: E402
from detkit.detections import Detections  # noqa: E402
from detkit.engines import Outputs  # noqa: E402
from detkit.engines.onnx import OnnxEngine  # noqa: E402
from detkit.engines.torch import TorchEngine  # noqa: E402
from detkit.errors import DataError, RunError, UsageError, WeightsError  # noqa: E402
from detkit.export import compare_outputs, export_onnx  # noqa: E402
from detkit.models.build import build, with_architecture  # noqa: E402
from detkit.models.checkpoint import load_model, load_state, save_model  # noqa: E402
from detkit.models.depthwise import quicken_depthwise  # noqa: E402
from detkit.models.external import COCO_COLUMNS, COCO_OUTPUTS, KINDS, TorchvisionSettings  # noqa: E402
from detkit.models.external_dense import Dense  # noqa: E402
from detkit.models.external_face import External  # noqa: E402
from detkit.models.external_rcnn import Proposals, Raw, TwoStage  # noqa: E402
from detkit.train.external_task import check_external, external_card_fields  # noqa: E402
from detkit.train.optim import freeze_stages  # noqa: E402
from detkit.train.settings import TrainSettings  # noqa: E402
from tests.external_world import (  # noqa: E402
    ALL,
    decide,
    detkit_says,
    external_card,
    new_network,
    scenes,
    torchvision_loses,
    torchvision_says,
)

LITE, FCOS, RCNN = "ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"
QUICK = [(LITE, (160, 224)), (FCOS, (64, 96)), (RCNN, (96, 160))]
SLOW = [
    ("ssd300_vgg16", (288, 320)),
    ("retinanet_resnet50_fpn", (96, 128)),
    ("retinanet_resnet50_fpn_v2", (64, 96)),
    ("fasterrcnn_mobilenet_v3_large_fpn", (96, 128)),
    ("fasterrcnn_resnet50_fpn", (64, 96)),
    ("fasterrcnn_resnet50_fpn_v2", (64, 96)),
    ("keypointrcnn_resnet50_fpn", (96, 128)),
]
EVERY = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
GRAPHS = [EVERY[0], pytest.param(*EVERY[1], marks=pytest.mark.slow), *EVERY[2:]]
BOX_PX, SCORE = 0.1, 2e-3  # random weights are far from unit scale, and multiply float32's rounding


@pytest.fixture(scope="module")
def decided() -> dict[str, External]:
    """Networks by name, made once."""
    return {}


def network_of(name: str, size_hw: tuple[int, int], decided: dict[str, External]) -> External:
    if name not in decided:
        decided[name] = new_network(name, size_hw, ("person",) if name.startswith("keypoint") else ("a", "b", "c"))
        decide(decided[name], scenes(2, size_hw))
    return decided[name]


def truth(size_hw: tuple[int, int], *rows: list[float]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(size_hw, table[:, :4], table[:, 4].astype(int))


def share_found(wanted: Outputs, given: Outputs) -> float:
    """Of the 100 best rows of each canvas, those that the other has too."""
    shares = []
    for boxes, scores, own_boxes, own_scores in zip(*wanted[:2], *given[:2], strict=True):
        best = scores.max(1).argsort()[-100:]
        near = np.abs(boxes[best, None] - own_boxes).max(-1) < 0.5
        shares.append((near & (np.abs(scores[best, None] - own_scores).max(-1) < 5e-3)).any(1).mean())
    return float(np.mean(shares))


@pytest.mark.parametrize(("name", "size_hw"), EVERY)
def test_detections_are_torchvisions_own(name: str, size_hw: tuple[int, int], decided: dict[str, External]) -> None:
    network, canvases = network_of(name, size_hw, decided), scenes(2, size_hw)
    conf = {"fcos": 0.85, "retinanet": 0.85, "keypointrcnn": 0.2}.get(name.partition("_")[0], 0.5)
    ours = detkit_says(network, canvases, conf, KINDS[name].iou)
    theirs = torchvision_says(network, canvases, conf)
    for found, wanted in zip(ours, theirs, strict=True):
        boxes = wanted["boxes"].numpy()
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)  # detkit drops the others, which torchvision leaves in
        table = np.c_[boxes, wanted["labels"] - 1, wanted["scores"]][has_area]
        assert len(table) > 3
        assert abs(len(found) - len(table)) <= 2 * isinstance(network, TwoStage)
        own = np.c_[found.boxes_xyxy, found.labels, found.scores]
        apart = np.abs(table[:, None] - own)  # [theirs, ours, 6]
        same = (apart[..., :4].max(-1) <= BOX_PX) & (apart[..., 4] == 0) & (apart[..., 5] <= SCORE)
        # Of two proposals that overlap by just 0.7, a rounding decides whether both stay.
        least = 0.97 if isinstance(network, TwoStage) else 1.0
        assert same.any(0).mean() >= least
        assert same.any(1).mean() >= least
        if "keypoints" in wanted:
            points = wanted["keypoints"].numpy()[has_area][same.argmax(0)]
            assert found.points_xyv is not None
            assert np.abs(points - found.points_xyv)[same.any(0)].max() < BOX_PX


@pytest.mark.parametrize(("name", "size_hw"), [case for case in [*QUICK, *SLOW] if case[0] == LITE or case in QUICK])
def test_losses_are_torchvisions_own(name: str, size_hw: tuple[int, int], decided: dict[str, External]) -> None:
    network, canvases = network_of(name, size_hw, decided), scenes(2, size_hw)
    truths = [truth(size_hw, [8, 8, 60, 50, 0], [30, 20, 90, 60, 2]), truth(size_hw)]
    if isinstance(network, TwoStage):  # every proposal is looked at, or chance would choose others for each
        for sampler in (network.detector.rpn.fg_bg_sampler, network.detector.roi_heads.fg_bg_sampler):
            sampler.batch_size_per_image = ALL
    theirs = torchvision_loses(network, canvases, truths)
    ours = network.train().loss(network(canvases), truths)
    network.eval()
    assert sorted(v.item() for v in ours.values()) == pytest.approx(sorted(v.item() for v in theirs.values()), rel=1e-3)
    assert all(part > 0 for part in ours.values())


@pytest.mark.parametrize(("name", "size_hw"), [(LITE, (128, 160)), ("ssd300_vgg16", (288, 352)), (FCOS, (96, 160))])
def test_anchors_are_torchvisions_own(name: str, size_hw: tuple[int, int], decided: dict[str, External]) -> None:
    network = new_network(name, size_hw) if name not in decided else decided[name]
    assert isinstance(network, Dense)
    with torch.no_grad():
        raw = network(scenes(1, size_hw))
    pixels = ImageList(torch.zeros(1, 3, *size_hw), [size_hw])
    wanted = network.detector.anchor_generator(pixels, list(raw.levels))[0]
    assert (network.anchors(raw) - wanted).abs().max() < 1e-3


@pytest.mark.parametrize(("name", "size_hw"), GRAPHS)
def test_the_graph_gives_its_boxes_on_any_canvas(
    name: str, size_hw: tuple[int, int], decided: dict[str, External], tmp_path: Path
) -> None:
    network = network_of(name, size_hw, decided)
    card = external_card(name, size_hw, ("person",) if name.startswith("keypoint") else ("a", "b", "c"))
    proof = export_onnx(network, card, tmp_path / "model.onnx")
    assert proof.score < SCORE
    engine, reference = OnnxEngine(tmp_path / "model.onnx"), TorchEngine(network, card)
    names = [output.name for output in onnx.load(tmp_path / "model.onnx").graph.output]
    assert names == ["boxes", "scores", *(["points"] if card.point_names else [])]
    for batch, larger in ((1, 0), (3, 32)):
        canvases = scenes(batch, (size_hw[0] + larger, size_hw[1] + 2 * larger)).numpy()
        if name.startswith("keypoint"):
            assert engine.run(canvases).boxes_xyxy.shape == (batch, 100, 4)
            continue
        wanted, given = reference.run(canvases), engine.run(canvases)
        if isinstance(network, TwoStage):  # a proposal more or less moves all rows after it
            assert share_found(wanted, given) > 0.95
            continue
        found = compare_outputs(wanted, given)
        assert found.box_px < 0.5
        assert found.score < 5e-3


def test_a_network_that_has_learnt_nothing_can_be_proven_too(tmp_path: Path) -> None:
    proof = export_onnx(new_network(RCNN, (64, 64)), external_card(RCNN, (64, 64)), tmp_path / "model.onnx")
    assert proof.box_px < 0.01


def test_a_graph_that_differs_is_not_kept(
    decided: dict[str, External], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, card = network_of(RCNN, (96, 160), decided), external_card(RCNN, (96, 160))
    assert isinstance(network, TwoStage)
    right = network.rows

    def off_by_a_pixel(raw: Raw, proposals: Proposals) -> tuple[torch.Tensor, torch.Tensor]:
        boxes, scores = right(raw, proposals)
        return boxes + (0 if torch.jit.is_tracing() else 1), scores

    monkeypatch.setattr(network, "rows", off_by_a_pixel)
    with pytest.raises(RunError, match="does not give the network's boxes"):
        export_onnx(network, card, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_empty_canvases_crowds_and_boxes_without_area_train_nothing_but_background() -> None:
    network = new_network(LITE, (128, 128)).train()
    size_hw = (128, 128)
    crowd = replace(truth(size_hw, [5, 5, 60, 60, 1]), crowd=np.array([True]))
    flat = truth(size_hw, [5, 5, 60, 5, 1])
    raw = network(scenes(2, size_hw))
    empty = network.loss(raw, [truth(size_hw), truth(size_hw)])
    assert {name: v.item() for name, v in network.loss(raw, [crowd, flat]).items()} == {
        name: v.item() for name, v in empty.items()
    }
    assert all(torch.isfinite(part) for part in empty.values())


def test_label_k_is_output_k_plus_1() -> None:
    network = new_network(LITE, (128, 128))
    assert network.columns.tolist() == [1, 2, 3]
    assert network.targets([truth((128, 128), [1, 1, 9, 9, 2])])[0]["labels"].tolist() == [3]


def test_every_layer_may_learn_and_the_stages_are_cut_by_stride() -> None:
    network = new_network(RCNN, (64, 64))
    assert all(parameter.requires_grad for parameter in network.parameters())
    stages = network.backbone.stages
    assert len(stages) == 4
    assert [layer for stage in stages for layer in stage] == list(network.detector.backbone.body.values())
    freeze_stages(network.backbone, 1)  # type: ignore[arg-type]
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert all(name.startswith(("detector.backbone.body.0.", "detector.backbone.body.1.", "detector.backbone.body.2.",
                                "detector.backbone.body.3.")) for name in frozen)  # fmt: skip


@pytest.mark.slow
def test_points_learn_where_they_can_be_seen() -> None:
    network = new_network("keypointrcnn_resnet50_fpn", (64, 96), ("person",)).train()
    boxed = truth((64, 96), [8, 8, 60, 50, 0])
    points = np.tile(np.array([20.0, 30.0, 2.0], np.float32), (1, 17, 1))
    raw = network(scenes(2, (64, 96)))
    seen = network.loss(raw, [replace(boxed, points_xyv=points)] * 2)
    assert seen["points"].item() > 0
    seen["points"].backward(retain_graph=True)
    head = network.detector.roi_heads.keypoint_predictor.kps_score_lowres
    assert float(head.weight.grad.abs().sum()) > 0
    hidden = network.loss(raw, [replace(boxed, points_xyv=points * np.array([1, 1, 0], np.float32))] * 2)
    assert hidden["points"].item() == 0


def test_a_few_steps_learn_one_picture() -> None:
    size_hw = (128, 128)
    network = new_network(LITE, size_hw).train()
    canvases, truths = scenes(2, size_hw), [truth(size_hw, [16, 16, 80, 80, 1]), truth(size_hw, [40, 8, 120, 90, 2])]
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        total = torch.stack(list(network.loss(network(canvases), truths).values())).sum()
        losses.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_a_map_of_one_cell_has_a_gradient_in_bfloat16() -> None:
    keep_freed_blocks()  # as training does: fresh memory is 0, and hides what is not written
    conv = nn.ModuleList([nn.Conv2d(128, 128, 3, 2, 1, groups=128, bias=False)])
    quicken_depthwise(conv)
    conv.to(memory_format=torch.channels_last)
    x = torch.ones(8, 128, 1, 1).to(memory_format=torch.channels_last).requires_grad_()
    wanted = torch.zeros(128, 1, 3, 3)
    wanted[:, :, 1, 1] = 8  # only the middle of the kernel sees the cell, in 8 canvases
    for _ in range(5):
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = conv[0](x)
        for size in (100, 1000, 10_000, 100_000):
            del [torch.full((size,), torch.nan) for _ in range(8)][:]
        out.float().sum().backward()
        assert torch.equal(conv[0].weight.grad, wanted)


def test_both_stages_learn_in_bfloat16() -> None:
    network = new_network(RCNN, (64, 96)).train()
    truths = [truth((64, 96), [8, 8, 60, 50, 0])] * 2
    with torch.autocast("cpu", torch.bfloat16):
        raw = network(scenes(2, (64, 96)))
    assert raw.maps[0].dtype is torch.bfloat16
    parts = network.loss(raw, truths)
    assert list(parts) == ["objectness", "proposal_box", "class", "box"]
    assert {part.dtype for part in parts.values()} == {torch.float32}
    torch.stack(list(parts.values())).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_coco_layout_has_91_outputs_and_gives_80() -> None:
    categories = torchvision.models.get_model_weights(LITE)["COCO_V1"].meta["categories"]  # a table, no download
    assert len(categories) == COCO_OUTPUTS
    assert tuple(categories[i] for i in COCO_COLUMNS) == COCO_NAMES
    card = replace(external_card(LITE, (128, 128), COCO_NAMES), architecture={"name": LITE, "layout": "coco91"})
    network = build(card).eval()
    with torch.no_grad():
        raw = network(scenes(1, (128, 128)))
        _, scores, _ = network.decode(raw)
    assert raw.logits.shape[-1] == 91
    assert scores.shape[-1] == 80
    dog = COCO_NAMES.index("dog")
    assert torch.equal(scores[..., dog], raw.logits.softmax(-1)[..., categories.index("dog")])
    with pytest.raises(WeightsError, match="COCO's 80"):
        build(replace(card, class_names=("a", "b")))


def test_another_data_set_gets_outputs_of_its_own() -> None:
    start = TorchvisionSettings(LITE, "coco91")
    settings = TrainSettings(task="torchvision", torchvision=start)
    train: Any = SimpleNamespace(class_names=("a",))
    assert external_card_fields(train, settings)["architecture"] == {"name": LITE, "layout": "plain"}
    coco: Any = SimpleNamespace(class_names=COCO_NAMES)
    assert external_card_fields(coco, settings)["architecture"] == {"name": LITE, "layout": "coco91"}
    fcos = replace(settings, torchvision=TorchvisionSettings("fcos_resnet50_fpn"))
    assert external_card_fields(train, fcos)["thresholds"]["iou"] == 0.6


def test_a_model_starts_from_one_of_other_classes(tmp_path: Path) -> None:
    old, new = new_network(LITE, (128, 128)), new_network(LITE, (128, 128), ("x", "y"))
    with torch.no_grad():
        old.detector.head.regression_head.module_list[0][1].bias.fill_(7)
    save_model(tmp_path / "old.safetensors", old, external_card(LITE, (128, 128)))
    load_state(new, tmp_path / "old.safetensors", left_out=new.class_layers)
    assert new.detector.head.regression_head.module_list[0][1].bias[0] == 7
    assert new.detector.head.classification_head.module_list[0][1].weight.shape[0] == 6 * 3
    again, card = load_model(tmp_path / "old.safetensors")
    assert card.task == "torchvision"
    canvas = scenes(1, (128, 128))
    with torch.no_grad():
        assert torch.equal(old.decode(old(canvas))[1], again.decode(again(canvas))[1])


def test_unknown_names_and_unfit_cards_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'fcos_resnet50_fpn'"):
        load(TrainSettings, None, ["torchvision.name=fcos_resnet50"])
    with pytest.raises(ValueError, match="no ImageNet weights"):
        TorchvisionSettings(LITE, pretrained=True)
    card = external_card(LITE, (64, 64))
    with pytest.raises(WeightsError, match="did you mean"):
        with_architecture(TorchvisionSettings(), replace(card, architecture={"name": "ssd300_vgg", "layout": "plain"}))
    with pytest.raises(WeightsError, match="points in the model card"):
        build(replace(card, architecture={"name": "keypointrcnn_resnet50_fpn", "layout": "plain"}))


def test_a_canvas_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match=r"too small .* found 256x256 px; expected 288 px"):
        new_network("ssd300_vgg16", (256, 256))(scenes(1, (256, 256)))


def test_the_option_names_a_detector() -> None:
    names = ("--task", "--epochs", "--time", "--size", "--batch", "--backbone", "--format", "--allow-bad", "--model")
    none: dict[str, str | int | None] = dict.fromkeys(names)
    assert _overrides(none | {"--model": f"torchvision:{FCOS}"}) == ["task=torchvision", f"torchvision.name={FCOS}"]
    for wrong, problem in (
        ({"--model": FCOS}, "expected torchvision:NAME"),
        ({"--model": f"torchvision:{FCOS}", "--task": "landmarks"}, "leave --task out"),
        ({"--model": f"torchvision:{FCOS}", "--backbone": "resnet18"}, "leave --backbone out"),
    ):
        with pytest.raises(UsageError, match=problem):
            _overrides(none | wrong)


def test_what_cannot_be_trained_is_refused_before_the_first_step() -> None:
    train: Any = SimpleNamespace(box_count=1, source="photos")
    plain = TrainSettings(task="torchvision")
    check_external(train, plain)
    grown = replace(plain, torchvision=TorchvisionSettings("ssd300_vgg16"), grow=0.5)
    with pytest.raises(UsageError, match=r"found 160 px; expected at least 288 px"):
        check_external(train, grown)
    with pytest.raises(DataError, match="no labelled box"):
        check_external(SimpleNamespace(box_count=0, source="photos"), plain)  # type: ignore[arg-type]
