"""`detkit data check` and `detkit data fix` on the command line, and the page that documents the codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted import Fault, plant
from planted_faults import FAULTS
from typer.main import get_command

from detkit.cli import app
from detkit.data import check_boxes, check_classes
from detkit.data.findings import CODES


def planted(name: str, kind: str = "coco") -> Fault:
    return next(fault for fault in FAULTS if (fault.name, fault.format) == (name, kind))


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        get_command(app).main(["data", *map(str, words)], prog_name="detkit")
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_an_error_exits_3_and_the_table_says_where_and_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = plant(planted("negative side", "yolo"), tmp_path)
    code, out, err = run(capsys, "check", root)
    assert code == 3
    assert "error     box-inverted      1  labels/train/0.txt:1: 0.jpg: a negative side" in out
    assert "to mend: swap the corners" in out
    assert err.splitlines() == [
        f"{root}: YOLO txt: data.yaml",
        "1 error, 0 warnings, 0 notes; would be used: 8 images with 32 boxes; left out: 1 images and 4 boxes",
    ]


def test_a_warning_exits_0_unless_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = plant(planted("leak"), tmp_path)
    assert run(capsys, "check", root)[0] == 0
    assert run(capsys, "check", root, "--strict")[0] == 3
    assert run(capsys, "check", root, "--strict", "--skip", "leak")[0] == 0
    assert run(capsys, "check", root, "--strict", "--only", "box-tiny")[0] == 0
    assert run(capsys, "check", root, "--strict", "--split", "train")[0] == 0
    code, _, err = run(capsys, "check", root, "--only", "leeks")
    assert code == 2
    assert "no finding has the code 'leeks'" in err
    code, _, err = run(capsys, "check", root, "--split", "test")
    assert code == 3
    assert "no split 'test'" in err


def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", plant(planted("NaN"), tmp_path), "--json")
    document = json.loads(out)
    assert code == 3
    assert (document["format"], document["errors"], document["warnings"], document["notes"]) == ("coco", 1, 0, 0)
    assert (document["images_used"], document["boxes_used"]) == (8, 32)
    assert (document["images_left_out"], document["boxes_left_out"]) == (1, 4)
    (finding,) = document["findings"]
    assert (finding["code"], finding["item"]) == ("box-not-finite", 1)


def test_no_data_set_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "check", tmp_path / "nowhere")
    assert (code, out) == (3, "")
    assert err.startswith("detkit: error: ")


def test_fix_writes_a_copy_and_says_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = plant(planted("negative side", "voc"), tmp_path)
    code, out, err = run(capsys, "fix", root, "--out", tmp_path / "new")
    assert code == 0
    assert "1  box-inverted  the corners are swapped" in out
    assert f"{tmp_path / 'new'}: 9 images with 36 boxes; 1 change" in err
    assert run(capsys, "check", tmp_path / "new")[0] == 0
    code, _, err = run(capsys, "fix", root, "--out", tmp_path / "new")
    assert code == 2
    assert "not an empty folder" in err
    code, out, _ = run(capsys, "fix", root, "--out", tmp_path / "other", "--json")
    document = json.loads(out)
    assert (document["images"], document["boxes"], len(document["changes"])) == (9, 36, 1)


def test_every_code_is_documented(repo: Path) -> None:
    page = (repo / "docs/data-check.md").read_text(encoding="utf-8")
    rows = []
    for name, code in CODES.items():
        done = code.mended or ("left out" if code.severity == "error" and not code.whole_set else "-")
        rows.append(f"| `{name}` | {code.severity} | {code.meaning} | {code.advice} | {done} |")
    table = page[page.index("| code |") : page.index("\n\n## Thresholds")].splitlines()[2:]
    assert table == rows
    for text in (
        f"more than {check_boxes.BEYOND_PX:.0f} px over the edge",
        f"IoU above {check_boxes.SAME_IOU}",
        f"IoU above {check_boxes.TWO_CLASSES_IOU}",
        f"below {check_boxes.TINY_PX:.0f} px",
        f"more than {check_boxes.EXTREME_RATIO:.0f} times",
        f"more than {check_boxes.ANCHORS_PER_CELL} objects",
        f"fewer than {check_classes.RARE_BOXES} boxes",
    ):
        assert text in page
