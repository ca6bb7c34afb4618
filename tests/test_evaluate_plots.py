"""Plots: every file is written, with one class and with many, with nothing to draw, and a missing extra is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_evaluate_coco import dataset_of, found, truth
from test_matching import AWAY, BOX

from detkit.errors import MissingExtraError, RunError
from detkit.evaluate.analysis import Analysis, analyse
from detkit.evaluate.plots import merged, write_plots
from detkit.images import read_image


def many_classes(classes: int) -> Analysis:
    truths = [truth(BOX, AWAY, labels=[k % classes, 0]) for k in range(2 * classes)]
    boxes = [found((*BOX, k % classes, 0.9), (*AWAY, (k + 1) % classes, 0.5)) for k in range(2 * classes)]
    return analyse(dataset_of(truths, classes), boxes, conf=0.3)


def test_an_analysis_is_plain_json() -> None:
    parts = json.loads(json.dumps(many_classes(3).to_dict()))
    assert set(parts) == {"confusion", "errors", "curves", "calibration", "breakdown", "worst", "suspects"}


def test_six_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with the report extra")
    empty = analyse(dataset_of([truth()]), [found()], conf=0.3)
    for name, analysis in (("many", many_classes(14)), ("empty", empty)):
        files = write_plots(tmp_path / name, analysis)
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == sorted(p.name for p in files)
        assert len(files) == 6
        for path in files:
            assert read_image(path)[0, 0].tolist() == [255, 255, 255]
    with pytest.raises(RunError):
        write_plots(tmp_path / "no" / "folder", empty)


def test_small_classes_stand_together() -> None:
    counts = np.zeros((13, 13), np.int64)
    counts[np.arange(12), np.arange(12)] = np.arange(12) + 1
    counts[0, 1], counts[0, 12], counts[12, 0] = 5, 3, 7  # class 0 has 9 objects, class 1 has 2, class 2 has 3
    joined, names = merged(counts, [f"class {k}" for k in range(12)])
    assert names == ["class 0", *(f"class {k}" for k in range(3, 12)), "2 others", "background"]
    assert joined.sum() == counts.sum()
    assert (joined[10, 10], joined[0, 10], joined[0, 11], joined[11, 0]) == (2 + 3, 5, 3, 7)


def test_without_matplotlib_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="report"):
        write_plots(tmp_path / "plots", many_classes(2))
    assert list(tmp_path.iterdir()) == []
