"""Parts of the recipe in whole runs: growing canvases, gathered batches, budgets, kept states, and repeating a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from small_runs import make_shapes, start, tiny_settings  # noqa: E402

from detkit.data.dataset import Dataset  # noqa: E402
from detkit.errors import UsageError  # noqa: E402
from detkit.models.checkpoint import load_tensors  # noqa: E402
from detkit.train.augment import AugmentSettings  # noqa: E402
from detkit.train.fit import Fit  # noqa: E402
from detkit.train.optim import OptimSettings  # noqa: E402
from detkit.train.reports import FinishReport  # noqa: E402
from detkit.train.run_folder import RunFolder  # noqa: E402
from detkit.train.start import TrainingData  # noqa: E402


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_shapes(tmp_path_factory.mktemp("shapes"), 13)


def losses_of(run: Path) -> list[dict[str, float]]:
    return [row["losses"] for row in RunFolder(run).rows(run / "steps.jsonl")]


def test_growing_canvases_of_many_sizes_and_gathered_batches_resume_bit_for_bit(
    tmp_path: Path, shapes: Dataset
) -> None:
    optim = OptimSettings(accumulate=2, name="sgd", lr=0.01)
    settings = tiny_settings(grow=0.5, multi_scale=0.4, balance=0.5, optim=optim, epochs=4, self_test=False)
    list(start(tmp_path / "whole", shapes, settings).run())
    fit = start(tmp_path / "parts", shapes, settings)
    list(fit.run(lambda: fit.position.step == 3))
    again = start(tmp_path / "parts", shapes, settings, begin=False)
    again.resume()
    assert again.position.batch % 2 == 0
    list(again.run())
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    ours, theirs = (load_tensors(tmp_path / name / "last.safetensors")[0] for name in ("parts", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    sides = [settings.sides_px(progress) for progress in (0, 0.35, 0.7, 1)]
    assert sides == [(64,), (64,), (64, 96, 128), (64, 96, 128)]  # 48, 72, 96 and 96 px, rounded to 32, and 40 % about


def test_two_halves_gathered_give_the_gradient_of_the_whole(tmp_path: Path, shapes: Dataset) -> None:
    """Batch norms see the halves, so they are frozen here; the loss is a mean over matches, so the photos are equal."""
    same = replace(shapes, samples=(shapes.samples[0],) * 4)
    still = AugmentSettings(mosaic=0, zoom=(1, 1), stretch=0, flip=0, hue_deg=0, saturation=0, brightness=0, contrast=0)
    norms = []
    for batch_size, accumulate in ((4, 1), (2, 2)):
        optim = OptimSettings(accumulate=accumulate)
        settings = tiny_settings(batch_size=batch_size, epochs=1, optim=optim, augment=still, self_test=False)
        fit = start(tmp_path / str(batch_size), same, settings)
        fit.learner.train_mode = fit.learner.model.eval  # type: ignore[method-assign]
        list(fit.run())
        norms.append([row["norm"] for row in RunFolder(fit.folder.path).rows(fit.folder.steps)])
    assert len(norms[0]) == len(norms[1]) == 1
    assert norms[0][0] == pytest.approx(norms[1][0], rel=1e-4)


def test_a_run_that_gets_no_better_ends_early(tmp_path: Path, shapes: Dataset) -> None:
    optim = OptimSettings(lr=1e-9)  # nothing is learnt
    settings = tiny_settings(epochs=9, patience=2, optim=optim, self_test=False)
    *_, finish = start(tmp_path / "run", shapes, settings).run()
    assert isinstance(finish, FinishReport)
    assert (finish.complete, finish.early) == (True, True)
    assert len(RunFolder(tmp_path / "run").rows(tmp_path / "run" / "metrics.jsonl")) < 9


def test_a_time_budget_plans_the_schedule_and_ends_the_run(tmp_path: Path, shapes: Dataset) -> None:
    settings = tiny_settings(time_min=4 / 60, epochs=10_000, self_test=False)
    *_, finish = start(tmp_path / "run", shapes, settings).run()
    assert isinstance(finish, FinishReport)
    assert finish.complete
    rows = RunFolder(tmp_path / "run").rows(tmp_path / "run" / "steps.jsonl")
    assert 10 <= len(rows) < 30_000
    assert all(row["step"] <= row["total"] for row in rows)
    assert len(rows) == 10 or rows[-1]["total"] < 30_000  # planned from the tenth step on
    assert finish.best is not None  # it looked at val at the end


def test_saved_states_are_kept_and_any_of_them_can_be_resumed(tmp_path: Path, shapes: Dataset) -> None:
    settings = tiny_settings(epochs=4, keep_last=3, self_test=False)
    list(start(tmp_path / "run", shapes, settings).run())
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-0000006.safetensors", "step-0000009.safetensors"]
    whole = load_tensors(tmp_path / "run" / "last.safetensors")[0]
    folder = RunFolder.of_checkpoint(tmp_path / "run" / "checkpoints" / kept[0])
    fit = Fit(folder, shapes, shapes, settings, start(tmp_path / "x", shapes, settings).card)
    fit.resume()
    assert fit.position.epoch == 2
    list(fit.run())
    again = load_tensors(tmp_path / "run" / "last.safetensors")[0]
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_repeating_a_run(tmp_path: Path, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from detkit.train import repro

    monkeypatch.setattr(repro, "same_data", lambda _: TrainingData(shapes, shapes))
    run = tmp_path / "run"
    list(start(run, shapes, tiny_settings(self_test=False)).run())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    reports = list(repro.repeat(run, 5))
    assert [(r.step, r.part) for r in reports] == [(n, None) for n in range(1, 6)]
    assert repro.changed_environment(run) == {}
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    lines = (run / "steps.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[2]["losses"]["box"] *= 1 + 1e-15
    (run / "steps.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    reports = list(repro.repeat(run, 5))
    assert [(r.step, r.part) for r in reports] == [(1, None), (2, None), (3, "the loss")]
    rows[1]["fed"] = "00000000"
    (run / "steps.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert list(repro.repeat(run, 5))[-1].part == "the photos fed to the network"
    then = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(then | {"threads": -1}))
    assert list(repro.changed_environment(run)) == ["threads"]
    (run / "steps.jsonl").write_text('{"step": 1, "epoch": 0}\n')
    with pytest.raises(UsageError, match="cannot be compared"):
        list(repro.repeat(run, 5))
    (run / "steps.jsonl").write_text("")
    with pytest.raises(UsageError, match="no steps"):
        list(repro.repeat(run, 5))
