"""`detkit eval` beyond COCO's figures: more figures, mistakes, plots, the report, thresholds; each on a set by hand."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_landmarks import write_landmark_model
from test_cli_eval import make_data

from detkit.cli import main
from detkit.images import write_image
from detkit.weights import read_card

# Three photos, red at 200, 153 and 128 of 255: two labelled red, the second not labelled. So by falling score the boxes
# are right, wrong, right: precision 1 up to recall 1/2, then 2/3. COCO reads it at 101 recalls, VOC 2007 at 11.
SHADES = (200, 153, 128)
SCORES = tuple(shade / 255 for shade in SHADES)
COCO_AP, VOC_AP, VOC_11 = (51 + 50 * 2 / 3) / 101, (1 + 2 / 3) / 2, (6 + 5 * 2 / 3) / 11


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `detkit ARGS`; returns exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detkit", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = make_data(tmp_path / "data", ["red", "grey", "red"])
    for number, shade in enumerate(SHADES, start=1):
        write_image(folder / "images" / f"{number}.png", np.full((60, 120, 3), (shade, 0, 0), np.uint8))
    return folder


def document(shell: Any, *args: object) -> dict[str, Any]:
    """The JSON that `detkit eval ARGS` prints; NaN and Infinity are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in the JSON")

    code, out, err = shell("eval", *args, "--json")
    assert code == 0, err
    tree: dict[str, Any] = json.loads(out, parse_constant=refuse)
    return tree


def rows_of(out: str) -> dict[str, list[str]]:
    """A table's rows by their first word."""
    return {line.split("  ")[0].strip(): line.split() for line in out.splitlines() if line}


def test_more_figures(shell: Any, data: Path, colour_model: Path) -> None:
    asked = ("--iou-thresholds", "0.9,0.5", "--sizes", "small=0-50,rest=50-", "--voc")
    found = document(shell, data, "-w", colour_model, *asked)
    assert found["AP"] == pytest.approx(COCO_AP)
    assert [(one["iou"], one["AP"], one["AR"]) for one in found["ious"]] == [
        (0.9, pytest.approx(COCO_AP), 1),
        (0.5, pytest.approx(COCO_AP), 1),
    ]
    assert [(one["name"], one["low_px"], one["high_px"], one["truths"]) for one in found["sizes"]] == [
        ("small", 0, 50, 0),
        ("rest", 50, None, 2),
    ]
    assert [one["AP"] for one in found["sizes"]] == pytest.approx([-1, COCO_AP])
    assert (found["voc"]["mAP"], found["voc"]["mAP11"]) == (pytest.approx(VOC_AP), pytest.approx(VOC_11))
    code, out, _ = shell("eval", data, "-w", colour_model, *asked)
    assert code == 0
    rows = rows_of(out)
    assert rows["AP90"][1] == rows["AR90"][1].replace("1.000", f"{COCO_AP:.3f}")
    assert [rows[name][2] for name in ("AP small", "AR rest")] == ["-", "1.000"]
    assert rows["mAP"][1] == f"{VOC_AP:.3f}"
    assert [line.split("  ")[0] for line in out.splitlines()].count("AP50") == 1


def test_mistakes_at_the_confidence_asked_for(shell: Any, data: Path, colour_model: Path) -> None:
    """The model's own (0.25) shows all three boxes, 0.7 the best one."""
    by_conf = {}
    for conf in (None, 0.7):
        args = [] if conf is None else ["--conf", conf]
        found = document(shell, data, "-w", colour_model, "--mistakes", *args)["mistakes"]
        counts = np.array(found["confusion"]["counts"])
        by_conf[conf] = (counts[0, 0], counts[0, 3], counts[3, 0], found["confusion"]["conf"][0])
    assert by_conf == {None: (2, 0, 1, 0.25), 0.7: (1, 1, 0, 0.7)}  # found, missed, false alarms
    code, out, err = shell("eval", data, "-w", colour_model, "--mistakes")
    assert code == 0
    rows = rows_of(out)
    assert rows["background"][1:] == ["1", "0", "0", "0"]
    assert re.search(rf"^2\.png +{SCORES[1]:.2f} +0 +0 +1$", out, re.MULTILINE)
    assert rows["2.png"][1:5] == ["missing", "label", "-", "red"]
    assert rows["false positive"][2:5] == [f"{1 - COCO_AP:.3f}", "1", "1"]
    assert "scored 0.25 or more" in err


def test_thresholds_and_who_takes_them(shell: Any, data: Path, tmp_path: Path, colour_model: Path) -> None:
    """F1 keeps all three boxes (2/3 of them right: 0.8), a precision of 1 the best alone."""
    file, sure, copy = tmp_path / "t.json", tmp_path / "sure.json", tmp_path / "copy.onnx"
    found = document(shell, data, "-w", colour_model, "--write-thresholds", file)["thresholds"]
    assert found == json.loads(file.read_text())
    red = found["classes"]["red"]
    assert (red["conf"], red["precision"], red["recall"]) == (pytest.approx(SCORES[2]), pytest.approx(2 / 3), 1)
    assert found["classes"]["green"]["conf"] is None
    code, out, err = shell("eval", data, "-w", colour_model, "--write-thresholds", sure, "--precision", 1)
    assert code == 0
    assert f"{(SCORES[0] + SCORES[1]) / 2:.3f}" in out
    assert "nothing to choose by, so the model's own confidence stays: green, blue" in err
    args = ("--write-thresholds", copy, "--precision", 1)
    assert shell("eval", data, "-w", colour_model, *args)[0] == 0
    assert read_card(copy).class_thresholds == {"red": pytest.approx((SCORES[0] + SCORES[1]) / 2)}
    assert read_card(colour_model).class_thresholds == {}

    def boxes(*args: object) -> int:
        code, out, err = shell("detect", data / "images", "--json", *args)
        assert code == 0, err
        return sum(len(image["detections"]) for image in json.loads(out)["images"])

    assert boxes("-w", colour_model, "--thresholds", file) == 3
    assert boxes("-w", colour_model, "--thresholds", sure) == 1
    assert boxes("-w", copy) == 1
    again = document(shell, data, "-w", copy, "--mistakes")
    assert again["AP"] == pytest.approx(COCO_AP)  # figures take all boxes, whatever the thresholds
    assert again["mistakes"]["confusion"]["counts"][0][0] == 1


def test_a_precision_out_of_reach_is_said(shell: Any, data: Path, tmp_path: Path, colour_model: Path) -> None:
    write_image(data / "images" / "2.png", np.full((60, 120, 3), (250, 0, 0), np.uint8))  # the best box is wrong
    args = ("--write-thresholds", tmp_path / "t.json", "--precision", 0.9)
    code, _, err = shell("eval", data, "-w", colour_model, *args)
    assert code == 0
    assert "no confidence gives a precision of 0.9; the nearest is taken: red" in err


def test_plots_and_report_and_everything_at_once(shell: Any, data: Path, tmp_path: Path, colour_model: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    page, plots, saved = tmp_path / "report.html", tmp_path / "plots", tmp_path / "boxes.json"
    asked: list[object] = ["--voc", "--mistakes", "--iou-thresholds", "0.5", "--sizes", "all=0-", "--conf", "0.3"]
    asked += ["--report", page, "--plots", plots, "--save-predictions", saved]
    asked += ["--write-thresholds", tmp_path / "t.json", "--precision", "0.9"]
    found = document(shell, data, "-w", colour_model, *asked)
    assert {"voc", "mistakes", "thresholds", "intervals", "sizes"} <= set(found)
    assert len(list(plots.glob("*.png"))) == 6
    text = page.read_text("utf-8")
    assert "2.png" in text
    assert "precision 0.9" in text
    by_boxes = document(shell, data, "--predictions", saved, "--report", tmp_path / "stored.html")
    assert by_boxes["AP"] == found["AP"]
    assert "mistakes" not in by_boxes
    assert "thresholds" not in by_boxes
    left = {"boxes.json", "data", "plots", "report.html", "stored.html", "t.json"}
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize(("module", "option"), [("jinja2", "--report"), ("matplotlib", "--plots")])
def test_a_missing_extra_is_said_before_the_work(
    shell: Any,
    data: Path,
    tmp_path: Path,
    colour_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    option: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, out, err = shell("eval", data, "-w", colour_model, option, tmp_path / "x")
    assert (code, out) == (5, "")
    assert err.startswith("detkit: error: ")
    assert "[report]" in err
    assert not (tmp_path / "x").exists()


REFUSED: list[list[str]] = [
    ["--conf", "0.5"],
    ["--mistakes", "--conf", "1.5"],
    ["--mistakes", "--conf", "nan"],
    ["--precision", "0.9"],
    ["--precision", "95", "--write-thresholds", "t.json"],
    ["--precision", "0", "--write-thresholds", "t.json"],
    ["--write-thresholds", "t.txt"],
    ["--write-thresholds", "t.safetensors"],
    ["--write-thresholds", "absent/t.json"],
    ["--report", "absent/r.html"],
    ["--report", "data"],
    ["--report", "one.json", "--write-thresholds", "one.json"],
    ["--plots", "model.onnx"],
    ["--plots", "absent/plots"],
    ["--write-thresholds", "model.onnx"],
    ["--write-thresholds", "data/annotations/instances_val.json"],
    ["--save-predictions", "model.onnx"],
    ["--iou-thresholds", "0.5,2"],
    ["--iou-thresholds", "0"],
    ["--iou-thresholds", "half"],
    ["--sizes", "big"],
    ["--sizes", "a=5-2"],
    ["--sizes", "a=-2-5"],
    ["--sizes", "a=0-2,a=2-"],
    ["--sizes", "=0-2"],
    ["--oks"],
    ["--oks-sigmas", "none"],
]


def test_what_cannot_be_done_is_refused_before_the_work(
    shell: Any, data: Path, tmp_path: Path, colour_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model.onnx"
    model.write_bytes(colour_model.read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for args in REFUSED:
        code, out, err = shell("eval", data, "-w", model, *args)
        assert (code, out) == (2, ""), (args, err)
        assert err.splitlines()[-1].startswith("detkit: error: ")
        assert "boxes by" not in err, args
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_options_of_boxes_and_a_model_of_points(shell: Any, data: Path, tmp_path: Path) -> None:
    model = write_landmark_model(tmp_path / "points.onnx")
    asked: list[list[object]] = [
        ["--voc"],
        ["--mistakes"],
        ["--sizes", "a=0-"],
        ["--iou-thresholds", "0.5"],
        ["--report", tmp_path / "r.html"],
        ["--write-thresholds", tmp_path / "t.json"],
    ]
    for args in asked:
        code, out, err = shell("eval", data, "-w", model, *args)
        assert (code, out) == (2, ""), err
        assert f"{args[0]} measures boxes" in err
