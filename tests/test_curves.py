"""The curves of a run as a picture, and its TensorBoard log."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from detkit.errors import MissingExtraError
from detkit.images import read_image
from detkit.train.curves import _panels, write_curves
from detkit.train.history import read_metrics
from detkit.train.reports import StepReport


def write_rows(run: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_metrics(run / "metrics.jsonl", [])


def coco_row(epoch: int, ap: float | None) -> dict[str, Any]:
    val = None if ap is None else {"AP": ap, "AP50": 2 * ap, "APs": -1.0, "AR1": 0.1}
    return {"epoch": epoch, "step": epoch, "seconds": 9.0, "loss": {"box": 1 / epoch, "class": 0.5}, "val": val}


def test_what_is_drawn(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, [coco_row(1, None), coco_row(2, 0.2), coco_row(3, None), coco_row(4, 0.1)])
    panels = dict(_panels(rows))
    assert list(panels) == ["training loss", "val"]
    assert panels["training loss"][0] == ("total", [1, 2, 3, 4], [1.5, 1.0, pytest.approx(5 / 6), 0.75])
    assert [line[0] for line in panels["training loss"][1:]] == ["box", "class"]
    assert panels["val"] == [("AP50", [2, 4], [0.4, 0.2]), ("AP", [2, 4], [0.2, 0.1])]


def test_undefined_figures_leave_no_point_and_other_scales_get_their_own_panel(tmp_path: Path) -> None:
    loss = {"points": 1.0}
    vals = [{"AP": -1.0, "NME": 0.2}, {"AP": -1.0, "NME": 0.1}]
    rows = [{"epoch": e + 1, "loss": loss, "val": val, "lr": 0.1} for e, val in enumerate(vals)]
    panels = dict(_panels(write_rows(tmp_path, rows)))
    assert list(panels) == ["training loss", "val NME (lower is better)", "learning rate"]
    assert panels["training loss"] == [("points", [1, 2], [1.0, 1.0])]
    assert panels["learning rate"] == [("lr", [1, 2], [0.1, 0.1])]


@pytest.mark.parametrize("case", ["usual", "one epoch", "never looked", "only undefined", "no losses", "negative loss"])
def test_every_run_gives_a_picture(tmp_path: Path, case: str) -> None:
    rows = {
        "usual": [coco_row(e, 0.1 * e) for e in range(1, 4)],
        "one epoch": [coco_row(1, 0.3)],
        "never looked": [coco_row(1, None), coco_row(2, None)],
        "only undefined": [coco_row(1, -1.0)],
        "no losses": [{"epoch": 1}],
        "negative loss": [{"epoch": e, "loss": {"a": -float(e)}} for e in (1, 2)],
    }[case]
    write_rows(tmp_path, rows)
    path = write_curves(tmp_path)
    assert path == tmp_path / "plots" / "curves.png"
    image = read_image(path)
    assert image.shape[0] > 300
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 2  # more than a blank sheet
    assert [p.name for p in (tmp_path / "plots").iterdir()] == ["curves.png"]


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert write_curves(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text("")
    assert write_curves(tmp_path) is None


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path, [coco_row(1, 0.1)])
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"matplotlib: pip install \"detkit-cv\[train\]\""):
        write_curves(tmp_path)
    pytest.importorskip("torch")
    from detkit.train.tensorboard import TensorBoardLog

    with pytest.raises(MissingExtraError, match=r"detkit-cv\[tensorboard\]"):
        TensorBoardLog(tmp_path / "tensorboard")
    assert not (tmp_path / "tensorboard").exists()


def test_a_resumed_run_shows_every_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("torch")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from detkit.train.tensorboard import TensorBoardLog

    def write(first: int, last: int, *, value: float) -> None:
        log = TensorBoardLog(tmp_path, purge_step=first - 1)
        for step in range(first, last + 1):
            log.step(StepReport(0, step, 9, {"box": value}, 0.1, 5.0))
            if step % 3 == 0:
                log.epoch({"epoch": step // 3, "step": step, "loss": {"box": value}, "val": {"AP": value, "APs": -1.0}})
        log.close()

    write(1, 8, value=1.0)  # killed here; last.safetensors is of step 4
    write(5, 9, value=2.0)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss/box", "train/lr", "train/images_per_s", "epoch/box", "val/AP"}
    seen = [(e.step, e.value) for e in events.Scalars("loss/box")]
    assert seen == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 2), (9, 2)]
    assert [(e.step, e.value) for e in events.Scalars("val/AP")] == [(3, 1), (6, 2), (9, 2)]
