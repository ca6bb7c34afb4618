"""`detkit data convert | split | stats | anchors` from the shell's side: tables, JSON, files, one line per mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_startup import HEAVY, TORCH, imported_by

from detkit.cli import main
from detkit.data import formats
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.images import read_image, write_image

COMMANDS = ("convert", "split", "stats", "anchors")


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `detkit data ARGS`; returns exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detkit", "data", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A YOLO set of noise photos: 16 in train, 4 in val; each shows a cat of 16x8, every fourth a dog of 32x32 too.

    Photo 3 of train is in val again, brighter.
    """
    rng = np.random.default_rng(0)
    splits = []
    (tmp_path / "source").mkdir()
    for split, count in (("train", 16), ("val", 4)):
        samples = []
        for number in range(count):
            path = tmp_path / "source" / f"{split} {number}.png"
            noise = np.kron(rng.integers(40, 160, (8, 10)), np.ones((8, 8))).astype(np.uint8)
            if (split, number) == ("val", 0):
                noise = read_image(tmp_path / "source/train 3.png")[:, :, 0] + np.uint8(30)
            write_image(path, np.repeat(noise[:, :, None], 3, 2))
            labels = [0, 1] if number % 4 == 0 else [0]
            boxes_xyxy = np.array([[0, 0, 16, 8], [30, 20, 62, 52]], np.float32)[: len(labels)]
            truth = Detections((64, 80), boxes_xyxy, np.array(labels))
            samples.append(Sample(path.name, path, truth, number + 1))
        splits.append(Dataset("made", ("cat", "dog"), tuple(samples), tmp_path, "coco", split, (1, 2)))
    formats.write(splits, tmp_path / "data", "yolo")
    return tmp_path / "data"


def table(out: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose header starts with a word, by their first cell."""
    blocks = [block.splitlines() for block in out.strip().split("\n\n")]
    rows = next(block for block in blocks if block[0].split()[0] == first)
    return {row.split()[0]: row.split()[1:] for row in rows[1:]}


def test_convert(shell: Any, data: Path, tmp_path: Path) -> None:
    code, out, err = shell("convert", data, tmp_path / "voc", "--to", "voc")
    assert code == 0, err
    assert table(out, "split") == {"train": ["16", "20"], "val": ["4", "5"]}
    assert "YOLO labels, split train: 16 photos" in err
    code, out, _ = shell("convert", tmp_path / "voc", tmp_path / "csv", "--to", "csv", "--split", "val", "--json")
    document = json.loads(out)
    assert (document["from"], document["to"], document["classes"]) == ("voc", "csv", ["cat", "dog"])
    assert document["splits"] == [{"split": "val", "images": 4, "boxes": 5}]
    assert (document["boxes_read"], document["lost"]) == (5, [])
    assert (tmp_path / "csv/val.csv").is_file()


def test_split(shell: Any, data: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in data.rglob("*.*") if path.is_file()}
    code, out, err = shell("split", data, "--out", tmp_path / "new", "--ratios", "0.6,0.2,0.2")
    assert code == 0, err
    assert "kept together, because they show the same: 2 photos in 1 group, the largest of 2" in err
    rows = table(out, "photos")
    assert rows["dog"] == ["3", "(3)", "1", "(1)", "1", "(1)"]
    assert rows["all"] == ["12", "(15)", "4", "(5)", "4", "(5)"]
    parts = {
        name: {sample.name for sample in formats.read(tmp_path / "new", name)} for name in ("train", "val", "test")
    }
    assert sum(map(len, parts.values())) == 20
    assert any({"train 3.png", "val 0.png"} <= names for names in parts.values())
    assert {path: path.read_bytes() for path in data.rglob("*.*") if path.is_file()} == before
    again = shell("split", data, "--out", tmp_path / "again", "--ratios", "0.6,0.2,0.2", "--json")[1]
    assert {name: {s.name for s in formats.read(tmp_path / "again", name)} for name in parts} == parts
    document = json.loads(again)
    assert document["kept_together"] == {"groups": 1, "images": 2, "largest": 2}
    assert document["splits"][0]["per_class"][1] == {"name": "dog", "images": 3, "boxes": 3}
    shell("split", data, "--out", tmp_path / "other", "--ratios", "0.5,0.5", "--names", "train,test", "--seed", "1")
    assert formats.splits(tmp_path / "other") == ["train", "test"]


def test_split_says_what_did_not_come_out_as_asked(shell: Any, data: Path, tmp_path: Path) -> None:
    for number in (4, 8, 12):
        (data / f"labels/train/train {number}.txt").write_text("0 .5 .5 .2 .2\n")
    code, _, err = shell("split", data, "--out", tmp_path / "new", "--ratios", "0.9,0.05,0.05")
    assert code == 0
    assert "no photo with 'dog' in" in err
    assert "there are 2 in all" in err


def test_stats(shell: Any, data: Path, tmp_path: Path) -> None:
    code, out, err = shell("stats", data, "--sheet", tmp_path / "sheet.png", "--photos", 6)
    assert code == 0, err
    assert table(out, "split")["all"] == ["20", "0", "25", "0", "1.2", "2", "20", "5", "0"]
    assert table(out, "class")["dog"] == ["5", "5", "20.0%", "32x32", "0", "5", "0"]
    assert "cat + dog" in out
    assert read_image(tmp_path / "sheet.png").shape[1] == 1800
    document = json.loads(shell("stats", data, "--split", "val", "--json")[1])
    assert [one["split"] for one in document["splits"]] == ["val"]
    assert document["all"]["classes"][0]["median_wh_px"] == [16.0, 8.0]


def test_anchors(shell: Any, data: Path) -> None:
    code, out, err = shell("anchors", data, "--k", 2, "--size", 160)  # train only, twice as large
    assert code == 0, err
    assert table(out, "width") == {"32": ["16", "16", "80.0%"], "64": ["64", "4", "20.0%"]}
    assert table(out, "size")["all"] == ["20", "1.000", "1.00", "1.000"]
    document = json.loads(shell("anchors", data, "--k", 1, "--size", 160, "--max-ratio", "1.5", "--json")[1])
    assert document["anchors"] == [{"wh_px": [32.0, 16.0], "boxes": 20}]
    assert document["fit"]["all"]["best_recall"] == 0.8
    assert document["fit"]["medium"]["best_recall"] == 0.0
    assert document["fit"]["medium"]["mean_iou"] == pytest.approx(32 * 16 / 64**2)


def test_the_default_ratio_is_that_of_training() -> None:
    settings = pytest.importorskip("detkit.models.yolo").YoloSettings()
    import inspect

    from detkit.cli.data_anchors import anchors

    assert inspect.signature(anchors).parameters["max_ratio"].default == settings.max_shape_ratio


def test_mistakes_end_in_one_line(shell: Any, data: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    empty = tmp_path / "empty"
    formats.write([dataset_without_boxes(data)], empty, "yolo")
    cases = [
        (2, ["convert", data, new]),
        (2, ["convert", data, new, "--to", "xml"]),
        (2, ["convert", data, data, "--to", "voc"]),
        (2, ["convert", data, data / "new", "--to", "voc"]),
        (3, ["convert", tmp_path / "absent", new, "--to", "voc"]),
        (3, ["convert", data, new, "--to", "voc", "--format", "coco"]),
        (3, ["convert", data, new, "--to", "voc", "--split", "test"]),
        (2, ["split", data, "--out", new, "--ratios", "0.8,0.1"]),
        (2, ["split", data, "--out", new, "--ratios", "a,b"]),
        (2, ["split", data, "--out", new, "--ratios", "nan,0.5"]),
        (2, ["split", data, "--out", new, "--ratios", "0.25,0.25,0.25,0.25"]),
        (2, ["split", data, "--out", new, "--names", "train,val"]),
        (2, ["split", data, "--out", new, "--names", "train,val,val"]),
        (2, ["split", data]),
        (2, ["stats", data, "--sheet", tmp_path / "no/sheet.png"]),
        (2, ["stats", data, "--sheet", tmp_path / "sheet.doc"]),
        (3, ["anchors", empty]),
        (2, ["anchors", data, "--k", 0]),
    ]
    for expected, args in cases:
        code, out, err = shell(*args)
        assert (code, out) == (expected, ""), args
        assert err.splitlines()[-1].startswith("detkit: error: "), args
        assert "Traceback" not in err
        assert not new.exists()


def dataset_without_boxes(data: Path) -> Dataset:
    from dataclasses import replace

    dataset = formats.read(data, "val")
    samples = tuple(replace(s, truth=Detections.empty(s.truth.size_hw, scored=False)) for s in dataset)
    return replace(dataset, samples=samples)


def test_help_is_light_and_the_commands_need_no_torch(data: Path, tmp_path: Path) -> None:
    run = "from detkit.cli import main; main()"
    for command in COMMANDS:
        loaded, out = imported_by(run, "data", command, "--help")
        assert not loaded & {*HEAVY, "numpy"}
        assert "Example:" in out
    for args in (
        ["convert", str(data), str(tmp_path / "a"), "--to", "coco"],
        ["split", str(data), "--out", str(tmp_path / "b")],
        ["stats", str(data), "--sheet", str(tmp_path / "c.png")],
        ["anchors", str(data)],
    ):
        loaded, _ = imported_by(run, "data", *args)
        assert not loaded & {*TORCH, "onnxruntime", "pycocotools", "av"}, args
