"""The training loop on small real runs: it learns, resumes bit for bit, and leaves a usable run however it ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_runs import COLOURS, make_shapes, start, tiny_settings  # noqa: E402

from detkit.config import load  # noqa: E402
from detkit.data.dataset import Dataset  # noqa: E402
from detkit.data.formats import read  # noqa: E402
from detkit.engines.onnx import OnnxEngine  # noqa: E402
from detkit.errors import DataError, RunError, UsageError, WeightsError  # noqa: E402
from detkit.evaluate.coco import evaluate  # noqa: E402
from detkit.images import read_image  # noqa: E402
from detkit.infer.predictor import Predictor  # noqa: E402
from detkit.models.checkpoint import load_model, load_tensors  # noqa: E402
from detkit.models.yolo import YoloSettings  # noqa: E402
from detkit.train.augment import AugmentSettings  # noqa: E402
from detkit.train.fit import Fit  # noqa: E402
from detkit.train.optim import OptimSettings  # noqa: E402
from detkit.train.prepare import plan_anchors  # noqa: E402
from detkit.train.reports import EpochReport, FinishReport, StepReport  # noqa: E402
from detkit.train.run_folder import RunFolder, free_name  # noqa: E402
from detkit.train.settings import TrainSettings  # noqa: E402
from detkit.train.start import check_same_data  # noqa: E402


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_shapes(tmp_path_factory.mktemp("shapes"), 13)


def test_twenty_images_are_learnt_by_heart(tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "photos", 20, side=128)
    settings = tiny_settings(
        epochs=30,
        size_px=160,
        val_every=30,
        model=YoloSettings(),
        augment=AugmentSettings(mosaic=0, zoom=(0.9, 1.1), hue_deg=0),
        optim=OptimSettings(lr=0.003, warmup_steps=10),
    )
    assert settings.model.pretrained  # efficientnet_lite0 from ImageNet
    *_, finish = start(tmp_path / "run", data, settings).run()
    assert isinstance(finish, FinishReport)
    found = list(Predictor(tmp_path / "run" / "best.onnx", conf=0.001).predict_files([s.image_path for s in data]))
    result = evaluate(data, found)
    assert result.AP50 > 0.9
    assert finish.best == pytest.approx(result.AP, abs=0.02)  # what training said is what the exported model does


@pytest.mark.slow
def test_twenty_real_photos_are_learnt_by_heart(tmp_path: Path, shared_data: Path) -> None:
    train = read(shared_data / "street5", "train")
    labelled = [s for s in train if len(s.truth) and s.truth.crowd is not None and not s.truth.crowd.any()]
    data = replace(train, samples=tuple(labelled[::60][:20]))
    settings = tiny_settings(
        epochs=80,
        size_px=320,
        val_every=80,
        precision="auto",
        model=YoloSettings(),
        augment=AugmentSettings(mosaic=0, zoom=(1, 1), stretch=0, hue_deg=0),
        optim=OptimSettings(lr=0.002, warmup_steps=20),
    )
    list(start(tmp_path / "run", data, settings).run())
    found = list(Predictor(tmp_path / "run" / "best.onnx", conf=0.001).predict_files([s.image_path for s in data]))
    assert evaluate(data, found).AP50 > 0.9


def test_reports_and_run_folder(tmp_path: Path, shapes: Dataset) -> None:
    settings = tiny_settings(epochs=2)
    reports = list(start(tmp_path / "run", shapes, settings).run())
    steps = [r for r in reports if isinstance(r, StepReport)]
    epochs = [r for r in reports if isinstance(r, EpochReport)]
    assert [(s.epoch, s.step, s.total_steps) for s in steps] == [(n // 3, n + 1, 6) for n in range(6)]
    assert epochs[0].losses["box"] == pytest.approx(np.mean([s.losses["box"] for s in steps[:3]]), rel=1e-5)
    assert isinstance(reports[-1], FinishReport)
    assert reports[-1].complete
    folder = RunFolder(tmp_path / "run")
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]["val"]) >= {"AP", "AP50", "AR100"}
    assert load(TrainSettings, folder.config) == settings
    assert json.loads(folder.summary.read_text())["complete"] is True
    for picture in ("first_batch.png", "val.png"):
        assert read_image(folder.plots / picture).size
    model, card = load_model(folder.best)
    assert card.class_names == tuple(COLOURS)
    assert card.training["images"] == 13
    assert card == OnnxEngine(folder.best_onnx).card
    assert load_model(folder.last)[0].class_names == model.class_names
    files = "config.toml environment.json last.safetensors metrics.jsonl plots steps.jsonl summary.json"
    assert {p.name for p in folder.path.iterdir()} == {"best.onnx", "best.safetensors", *files.split()}


@pytest.mark.parametrize("stops", [[1], [4], [3, 6], [2, 5, 7]])
def test_a_run_stopped_and_resumed_ends_bit_for_bit_as_one_left_alone(
    tmp_path: Path, shapes: Dataset, stops: Sequence[int]
) -> None:
    settings = tiny_settings()
    list(start(tmp_path / "whole", shapes, settings).run())
    fit = start(tmp_path / "parts", shapes, settings)
    for stop in stops:
        *_, finish = fit.run(lambda at=stop, fit=fit: fit.position.step == at)
        assert isinstance(finish, FinishReport)
        assert not finish.complete
        assert OnnxEngine(RunFolder(tmp_path / "parts").best_onnx).card.class_names == tuple(COLOURS)
        fit = start(tmp_path / "parts", shapes, settings, begin=False)
        fit.resume()
        assert fit.position.step == stop
    list(fit.run())
    parts, whole = (RunFolder(tmp_path / name) for name in ("parts", "whole"))
    assert [row["loss"] for row in parts.rows(parts.metrics)] == [row["loss"] for row in whole.rows(whole.metrics)]
    ours, theirs = (load_tensors(tmp_path / name / "last.safetensors")[0] for name in ("parts", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_killed_before_it_saved_an_epoch_does_that_epoch_again(
    tmp_path: Path, shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings()
    list(start(tmp_path / "whole", shapes, settings).run())
    fit = start(tmp_path / "killed", shapes, settings)
    reports = fit.run()
    while not isinstance(next(reports), EpochReport):
        pass  # epoch 1 is safe; epoch 2 ends with its line written, but not saved

    def be_killed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "_save_last", be_killed)
    with pytest.raises(KeyboardInterrupt):
        list(reports)
    assert len(fit.folder.metrics.read_text().splitlines()) == 2
    again = start(tmp_path / "killed", shapes, settings, begin=False)
    again.resume()
    assert again.position.epoch == 1
    list(again.run())
    rows = [json.loads(line) for line in RunFolder(tmp_path / "killed").metrics.read_text().splitlines()]
    whole = [json.loads(line) for line in RunFolder(tmp_path / "whole").metrics.read_text().splitlines()]
    assert [(row["epoch"], row["loss"], row["val"]) for row in rows] == [
        (row["epoch"], row["loss"], row["val"]) for row in whole
    ]
    ours, theirs = (load_tensors(tmp_path / name / "last.safetensors")[0] for name in ("killed", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_frozen_stem_does_not_move_and_the_rest_does(tmp_path: Path, shapes: Dataset) -> None:
    settings = tiny_settings(epochs=1, model=YoloSettings(width=16, anchors_per_scale=1))
    fit = start(tmp_path / "run", shapes, settings)
    before = {name: t.clone() for name, t in fit.learner.model.state_dict().items()}
    list(fit.run())
    for name, tensor in fit.learner.model.state_dict().items():
        if name.startswith("backbone.stages.0."):
            assert torch.equal(tensor, before[name]), name
    moved = [n for n, t in fit.learner.model.state_dict().items() if not torch.equal(t, before[n])]
    assert any(n.startswith("backbone.stages.1.") for n in moved)
    assert any(n.startswith("heads.") for n in moved)


def test_starting_from_a_model_takes_its_weights(tmp_path: Path, shapes: Dataset) -> None:
    settings = tiny_settings(epochs=1)
    list(start(tmp_path / "first", shapes, settings).run())
    best = tmp_path / "first" / "best.safetensors"
    again = tiny_settings(start=best, model=YoloSettings())  # the architecture comes from the file
    assert again.model.backbone == "lenet5"
    own = load_model(best)[0].state_dict()
    same = start(tmp_path / "same", shapes, again).learner.model.state_dict()
    assert all(torch.equal(same[name], own[name]) for name in own)
    renamed = replace(shapes, class_names=("crimson", "navy"))
    other = start(tmp_path / "other", renamed, again).learner.model.state_dict()
    assert torch.equal(other["neck.lateral.0.0.weight"], own["neck.lateral.0.0.weight"])
    assert torch.equal(other["heads.0.to_box.weight"], own["heads.0.to_box.weight"])  # an object is an object
    assert not torch.equal(other["heads.0.to_class.weight"], own["heads.0.to_class.weight"])


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_the_batch(tmp_path: Path, shapes: Dataset) -> None:
    fit = start(tmp_path / "run", shapes, tiny_settings(self_test=False))
    with torch.no_grad():
        fit.learner.model.heads[0].to_box.bias.fill_(float("nan"))
    with pytest.raises(RunError, match=r"epoch 1, batch 1.*bad_batch\.npz"):
        list(fit.run())
    saved = np.load(tmp_path / "run" / "bad_batch.npz")
    assert saved["canvases"].shape == (4, 96, 96, 3)
    assert saved["boxes_xyxy_0"].shape[1] == 4
    assert (tmp_path / "run" / "plots" / "bad_batch.png").exists()


def test_the_trials_find_a_broken_network_before_the_first_epoch(tmp_path: Path, shapes: Dataset) -> None:
    fit = start(tmp_path / "run", shapes, tiny_settings())
    with torch.no_grad():
        fit.learner.model.heads[0].to_box.bias.fill_(float("nan"))
    with pytest.raises(RunError, match="first batch is not finite"):
        list(fit.run())


def test_what_is_refused_before_the_first_step(tmp_path: Path, shapes: Dataset) -> None:
    settings = tiny_settings()
    fit = start(tmp_path / "run", shapes, settings)
    with pytest.raises(UsageError, match="--resume"):
        fit.begin()
    with pytest.raises(WeightsError):
        start(tmp_path / "none", shapes, settings, begin=False).resume()
    swapped = replace(shapes, class_names=("blue", "red"))
    with pytest.raises(WeightsError, match="the order differs"):
        Fit(RunFolder(tmp_path / "x"), shapes, swapped, settings, fit.card)
    with pytest.raises(DataError, match="labels changed"):
        check_same_data(fit.card, replace(shapes, samples=shapes.samples[:-1]))
    check_same_data(fit.card, shapes)
    empty = replace(shapes, samples=tuple(s for s in shapes.samples if not len(s.truth)))
    with pytest.raises(DataError, match="no labelled box"):
        plan_anchors(empty, settings)
    for wrong in ({"size_px": 100}, {"epochs": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            tiny_settings(**wrong)


def test_free_name(tmp_path: Path) -> None:
    assert free_name(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert free_name(tmp_path / "a") == tmp_path / "a-3"
