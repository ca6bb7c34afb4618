"""The optimiser's schedule, groups and averages, by hand."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from detkit.train.optim import (  # noqa: E402
    FROZEN,
    OptimSettings,
    average_weights,
    build_optimizer,
    freeze_stages,
    learning_rate,
    set_learning_rate,
)

SETTINGS = OptimSettings(lr=1.0, warmup_steps=10, final_lr=0.1)


def test_learning_rate_by_hand() -> None:
    assert learning_rate(0, 110, SETTINGS) == pytest.approx(0.1)
    assert learning_rate(9, 110, SETTINGS) == pytest.approx(1.0)
    assert learning_rate(60, 110, SETTINGS) == pytest.approx(0.55)  # half way down
    assert learning_rate(110, 110, SETTINGS) == pytest.approx(0.1)
    assert learning_rate(0, 1, SETTINGS) <= 1.0
    assert learning_rate(0, 5, SETTINGS) == pytest.approx(1.0)  # the warm-up is at most a fifth of the run


def test_learning_rate_never_jumps() -> None:
    rates = [learning_rate(step, 500, SETTINGS) for step in range(501)]
    assert max(abs(b - a) for a, b in itertools.pairwise(rates)) <= 0.1 + 1e-9
    assert max(rates) <= 1.0


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_groups_cover_every_parameter_once(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    model[0].bias.requires_grad_(False)
    backbone = SimpleNamespace(stages=[nn.Sequential(), model[0]])
    optimizer = build_optimizer(model, OptimSettings(name=name, weight_decay=0.5), backbone, 0.1)  # type: ignore[arg-type]
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(grouped) == len(set(map(id, grouped)))
    set_learning_rate(optimizer, 2.0)
    for group in optimizer.param_groups:
        backbone = any(p is model[0].weight for p in group["params"])
        assert group["lr"] == pytest.approx(0.2 if backbone else 2.0)
        assert group["weight_decay"] == (0.5 if all(p.ndim > 1 for p in group["params"]) else 0.0)


def test_averaged_weights_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    averaged = average_weights(model, OptimSettings(ema=0.5))
    with torch.no_grad():
        model.weight.fill_(1.0)
        averaged.update_parameters(model)  # the first update is a copy
        model.weight.fill_(3.0)
        averaged.update_parameters(model)  # decay min(0.5, 2 / 11)
    assert averaged.module.weight.item() == pytest.approx(1 * 2 / 11 + 3 * 9 / 11)


def test_average_follows_a_frozen_counter() -> None:
    model = nn.BatchNorm2d(2)
    averaged = average_weights(model, OptimSettings())
    model(torch.randn(4, 2, 3, 3))
    averaged.update_parameters(model)
    assert averaged.module.num_batches_tracked.item() == 1
    assert torch.equal(averaged.module.running_mean, model.running_mean)


def test_earlier_stages_of_a_pretrained_backbone_learn_less() -> None:
    stages = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(4))
    model = nn.Sequential(stages, nn.Linear(1, 1, bias=False))
    backbone = SimpleNamespace(stages=list(stages))
    settings = OptimSettings(layer_decay=0.5)
    optimizer = build_optimizer(model, settings, backbone, 0.4)  # type: ignore[arg-type]
    set_learning_rate(optimizer, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(stage.weight)] for stage in stages] == pytest.approx([0.05, 0.1, 0.2, 0.4])
    assert rates[id(model[1].weight)] == 1.0
    fresh = build_optimizer(model, settings, backbone, 1.0)  # type: ignore[arg-type]
    assert {group["lr_factor"] for group in fresh.param_groups} == {1.0}  # random weights: nothing to keep


def test_frozen_stages_stay_frozen_in_training_mode() -> None:
    stages = nn.ModuleList(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)) for _ in range(4))
    backbone = SimpleNamespace(stages=stages)
    stages.train()
    freeze_stages(backbone, FROZEN["stride8"])  # type: ignore[arg-type]
    assert [stage.training for stage in stages] == [False, False, True, True]
    assert [stage[0].weight.requires_grad for stage in stages] == [False, False, True, True]


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"ema": 1.0}, {"accumulate": 0}, {"warmup_steps": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OptimSettings(**wrong)  # type: ignore[arg-type]
