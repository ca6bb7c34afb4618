"""`detkit eval` from the shell's side: figures, tables, JSON, saved boxes, and one clear line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkit.cli import main
from detkit.evaluate.coco import FIGURE_NAMES
from detkit.images import write_image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (30, 30, 30)}
SIZE_HW = (60, 120)


def make_data(folder: Path, colours: list[str], names: tuple[str, ...] = ("red", "green", "blue")) -> Path:
    """A COCO folder of one-coloured photos, each labelled as one box all over in its colour's class (grey: no box)."""
    ids = {name: 10 * k for k, name in enumerate(names, start=1)}
    images, annotations = [], []
    height, width = SIZE_HW
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for number, colour in enumerate(colours, start=1):
        name = f"{number}.png"
        write_image(folder / "images" / name, np.full((*SIZE_HW, 3), COLOURS[colour], np.uint8))
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        if colour != "grey":
            box = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({"id": number, "image_id": number, "category_id": ids[colour], **box})
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(tree))
    return folder


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `detkit eval ARGS`; returns exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detkit", "eval", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_json(shell: Any, tmp_path: Path, colour_model: Path, engine: str) -> None:
    data = make_data(tmp_path / "data", ["red", "blue", "red", "grey"])
    code, out, err = shell(data, "-w", colour_model, "--engine", engine, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert [document[name] for name in ("AP", "AP50", "APm", "AR1")] == pytest.approx([1, 1, 1, 1])
    assert [document[name] for name in ("APs", "APl", "ARs", "ARl")] == [-1, -1, -1, -1]
    assert set(FIGURE_NAMES) <= set(document)
    assert (document["images"], document["boxes"], document["engine"], document["split"]) == (4, 3, engine, "val")
    rows = [(c["name"], c["category_id"], round(c["AP"], 9), c["truths"]) for c in document["per_class"]]
    assert rows == [("red", 10, 1, 2), ("green", 20, -1, 0), ("blue", 30, 1, 1)]
    assert "COCO labels, split val: 4 photos, 3 boxes, 3 classes" in err


def test_tables(shell: Any, tmp_path: Path, colour_model: Path) -> None:
    data = make_data(tmp_path / "data", ["red", "grey"])
    code, out, _ = shell(data / "annotations" / "instances_val.json", "--weights", colour_model, "--batch", 3)
    assert code == 0
    lines = [line.split() for line in out.splitlines() if line]
    assert [line[0] for line in lines] == ["figure", *FIGURE_NAMES, "class", "red", "green", "blue"]
    assert lines[1][:2] == ["AP", "1.000"]
    assert lines[4][:2] == ["APs", "-"]
    assert lines[-3:] == [
        ["red", "1.000", "1.000", "1.000", "1", "2"],  # one photo: no interval
        ["green", "-", "-", "-", "0", "1"],
        ["blue", "-", "-", "-", "0", "1"],
    ]


def test_saved_predictions_give_pycocotools_the_same_figures(shell: Any, tmp_path: Path, colour_model: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = make_data(tmp_path / "data", ["red", "blue", "grey", "red", "green"])
    saved = tmp_path / "boxes.json"
    code, out, _ = shell(data, "-w", colour_model, "--json", "--save-predictions", saved)
    assert code == 0
    labels = COCO(str(data / "annotations" / "instances_val.json"))
    run = COCOeval(labels, labels.loadRes(str(saved)), "bbox")
    run.evaluate(), run.accumulate(), run.summarize()
    document = json.loads(out)
    assert [document[name] for name in FIGURE_NAMES] == pytest.approx(run.stats.tolist(), abs=1e-9, rel=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.json", "data"]


def test_batch_size_does_not_matter(shell: Any, tmp_path: Path, colour_model: Path) -> None:
    data = make_data(tmp_path / "data", ["red", "blue", "grey", "red", "green"])
    outs = [shell(data, "-w", colour_model, "--json", "--batch", size)[1] for size in (1, 2, 64)]
    assert outs[0] == outs[1] == outs[2] != ""


def test_which_split(shell: Any, tmp_path: Path, colour_model: Path) -> None:
    """Unasked: the only one, else val; where there is neither, the splits there are get named."""
    data = make_data(tmp_path / "data", ["red"])
    labels = data / "annotations"

    def seen(*args: str) -> object:
        code, out, err = shell(data, "-w", colour_model, "--json", *args)
        return json.loads(out)["split"] if code == 0 else (code, err.splitlines()[-1])

    assert seen() == "val"
    (labels / "instances_train.json").write_bytes((labels / "instances_val.json").read_bytes())
    assert (seen(), seen("--split", "train")) == ("val", "train")
    (labels / "instances_val.json").rename(labels / "instances_test.json")
    code, line = seen()
    assert code == 3
    assert "several splits" in line
    assert "train" in line
    (labels / "instances_train.json").unlink()
    assert seen() == "test"


def test_model_and_data_of_other_classes(shell: Any, tmp_path: Path, colour_model: Path) -> None:
    data = make_data(tmp_path / "data", ["red"], names=("green", "red", "blue"))
    code, out, err = shell(data, "-w", colour_model, "--save-predictions", tmp_path / "boxes.json")
    assert (code, out) == (4, "")
    assert "the order differs" in err.splitlines()[-1]
    assert not (tmp_path / "boxes.json").exists()


def test_mistakes_end_in_one_line(shell: Any, tmp_path: Path, colour_model: Path) -> None:
    data = make_data(tmp_path / "data", ["red", "grey"])
    labels = data / "annotations" / "instances_val.json"
    before = labels.read_bytes()
    broken = make_data(tmp_path / "broken", ["red"])
    (broken / "images" / "1.png").write_bytes(b"")
    cases = [
        (3, [tmp_path / "absent"]),
        (3, [data, "--split", "test"]),
        (3, [broken]),
        (2, [data, "--save-predictions", tmp_path / "no" / "such" / "boxes.json"]),
        (2, [data, "--save-predictions", labels]),
        (2, [data, "--save-predictions", tmp_path]),
        (2, [data, "--engine", "yolo"]),
        (2, [data, "--batch", "0"]),
        (2, []),
    ]
    for expected, args in cases:
        code, out, err = shell(*args, "--weights", colour_model)
        assert (code, out) == (expected, ""), (args, err)
        last = err.splitlines()[-1]
        assert last.startswith("detkit: error: "), err
        assert "Traceback" not in err
    assert shell(data, "--weights", tmp_path / "absent.onnx")[0] == 4
    assert labels.read_bytes() == before


def test_photo_of_another_size_than_its_label_says(shell: Any, tmp_path: Path, colour_model: Path) -> None:
    data = make_data(tmp_path / "data", ["red"])
    write_image(data / "images" / "1.png", np.zeros((30, 30, 3), np.uint8))
    code, _, err = shell(data, "-w", colour_model)
    assert code == 3, err
    assert "1.png" in err.splitlines()[-1]
