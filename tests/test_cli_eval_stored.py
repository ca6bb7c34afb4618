"""`detkit eval --predictions`: whatever holds a model's boxes gives its figures; bad files are one line each."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli_eval import make_data

from detkit.cli import main
from detkit.evaluate.coco import FIGURE_NAMES
from detkit.images import write_image

SHADES = [200, 153, 128, 220, 90, 60]  # of the first channel of each photo, in order
NAMES = ["red", "grey", "red", "blue", "red", "blue"]  # their labels; grey has none


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
    """Photos in shades of red, some labelled wrongly, whose ids are neither from 1 nor in the order of the names."""
    folder = make_data(tmp_path / "data", NAMES)
    for number, shade in enumerate(SHADES, start=1):
        write_image(folder / "images" / f"{number}.png", np.full((60, 120, 3), (shade, 0, 255 - shade), np.uint8))
    labels = folder / "annotations" / "instances_val.json"
    tree = json.loads(labels.read_text())
    for image in tree["images"]:
        image["id"] = 100 - image["id"]
    for annotation in tree["annotations"]:
        annotation["image_id"] = 100 - annotation["image_id"]
    labels.write_text(json.dumps(tree))
    return folder


def figures(shell: Any, *args: object) -> dict[str, float]:
    code, out, err = shell("eval", *args, "--json")
    assert code == 0, err
    document = json.loads(out)
    return {name: document[name] for name in FIGURE_NAMES}


def test_saved_boxes_give_the_same_figures_to_the_last_bit(
    shell: Any, data: Path, tmp_path: Path, colour_model: Path
) -> None:
    saved = tmp_path / "boxes.json"
    by_model = figures(shell, data, "-w", colour_model, "--save-predictions", saved)
    assert 0 < by_model["AP"] < 1
    assert figures(shell, data, "--predictions", saved) == by_model


def test_what_detect_writes_gives_the_figures_of_the_model(
    shell: Any, data: Path, tmp_path: Path, colour_model: Path
) -> None:
    """Its folder, its JSONL, its JSON and its COCO file, whose ids count its own pictures and classes."""
    by_model = figures(shell, data, "-w", colour_model)
    out = tmp_path / "out"
    how = ("-w", colour_model, "--conf", "0.001")
    assert shell("detect", data / "images", *how, "--to", "coco", "--out", out)[0] == 0
    code, document, _ = shell("detect", data / "images", *how, "--json")
    assert code == 0
    (tmp_path / "detect.json").write_text(document)
    results = json.loads((out / "coco_results.json").read_text())
    assert {one["image_id"] for one in results} == {1, 2, 3, 4, 5, 6}
    for stored in (out, out / "detections.jsonl", out / "coco_results.json", tmp_path / "detect.json"):
        found = figures(shell, data, "--predictions", stored)
        assert found == pytest.approx(by_model, abs=1e-5), stored.name


def test_boxes_of_a_high_confidence_are_remarked_on(shell: Any, data: Path, tmp_path: Path, colour_model: Path) -> None:
    out = tmp_path / "out"
    shell("detect", data / "images", "-w", colour_model, "--conf", "0.5", "--to", "csv", "--out", out)
    code, _, err = shell("eval", data, "--predictions", out)
    assert code == 0
    assert "make them with --conf 0.001" in err


def test_labels_are_enough(shell: Any, data: Path, tmp_path: Path, colour_model: Path) -> None:
    """With stored boxes nobody looks at the photos, and a report without them is one with empty frames."""
    pytest.importorskip("jinja2")
    saved, page = tmp_path / "boxes.json", tmp_path / "report.html"
    by_model = figures(shell, data, "-w", colour_model, "--save-predictions", saved)
    for photo in (data / "images").iterdir():
        photo.unlink()
    labels = data / "annotations" / "instances_val.json"
    assert figures(shell, labels, "--predictions", saved, "--report", page) == by_model
    assert "1.png" in page.read_text("utf-8")
    assert shell("compare", saved, saved, "--data", labels)[0] == 0


def test_coco_published_figures(shell: Any, shared_data: Path) -> None:
    """COCO's own example detections on 100 photos of val2014 that are not there: all 12 figures as published."""
    folder = shared_data / "coco-eval-ref"
    text = (folder / "val2014_fake_eval_res.txt").read_text().partition("type=bbox")[2]
    published = [float(value) for value in re.findall(r"\] = (-?[\d.]+)", text)][:12]
    labels, boxes = "instances_val2014_100.json", "instances_val2014_fakebbox100_results.json"
    for engine in ("hotcoco", "pycocotools"):
        found = figures(shell, folder / labels, "--predictions", folder / boxes, "--engine", engine)
        assert [round(value, 3) for value in found.values()] == published


def test_points_in_stored_results(shell: Any, tmp_path: Path) -> None:
    """Three objects with exact points, exact but for one, and missed: OKS tells them apart, boxes do not matter."""
    labels, stored = tmp_path / "faces_instances_val.json", tmp_path / "found.json"
    points = [10, 10, 2, 40, 10, 2]
    annotation = {"category_id": 1, "bbox": [0, 0, 50, 40], "area": 2000, "iscrowd": 0}
    annotation |= {"keypoints": points, "num_keypoints": 2}
    tree: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 50} for i in (1, 2)],
        "annotations": [{"id": i, "image_id": i} | annotation for i in (1, 2)],
        "categories": [{"id": 1, "name": "face", "keypoints": ["left_eye", "right_eye"]}],
    }
    labels.write_text(json.dumps(tree))
    stored.write_text(json.dumps([{"image_id": 1, "category_id": 1, "keypoints": points, "score": 0.9}]))
    code, out, err = shell("eval", labels, "--predictions", stored, "--oks", "--json")
    assert code == 0, err
    oks = json.loads(out)["keypoints"]
    assert [oks[name] for name in ("AP50", "AR50", "APl")] == pytest.approx([51 / 101, 0.5, -1])
    assert oks["sigmas"] == [0.025, 0.025]
    code, out, _ = shell("eval", labels, "--predictions", stored, "--oks-sigmas", "0.1,0.2")
    assert code == 0
    assert re.search(r"^OKS figure +value", out, re.MULTILINE)
    tree["categories"][0]["keypoints"] = ["tip", "tail"]
    labels.write_text(json.dumps(tree))
    for code, args in ((2, ["--oks"]), (2, ["--oks-sigmas", "0.1,0.2,0.3"]), (2, ["--oks-sigmas", "0"])):
        assert one_line(shell, code, labels, "--predictions", stored, *args)


def one_line(shell: Any, expected: int, *args: object) -> str:
    """The line that `detkit eval ARGS` ends in, which leaves with this code and prints no data."""
    code, out, err = shell("eval", *args)
    last: str = err.splitlines()[-1]
    assert (code, out) == (expected, ""), (args, err)
    assert last.startswith("detkit: error: "), err
    assert "Traceback" not in err
    return last


GOOD = {"image_id": 99, "category_id": 10, "bbox": [1, 2, 3, 4], "score": 0.5}
BAD = {
    "": "empty",
    "{": "JSON",
    '{"a": 1}': "no results",
    json.dumps([GOOD | {"score": 1.5}]): "outside 0 to 1",
    json.dumps([GOOD | {"score": -0.1}]): "outside 0 to 1",
    json.dumps([GOOD | {"score": float("nan")}]): "not finite",
    json.dumps([GOOD | {"bbox": [1, 2, float("inf"), 4]}]): "not finite",
    json.dumps([GOOD | {"bbox": [1, 2, -3, 4]}]): "negative",
    json.dumps([GOOD | {"bbox": [1, 2, 3]}]): "bbox is wrong",
    json.dumps([GOOD | {"image_id": 1}]): "found image_id 1; expected the image ids of",
    json.dumps([GOOD | {"category_id": 2}]): "class numbers",
    json.dumps([GOOD, {"score": 0.5}]): "results[1] has no image_id",
}


def test_bad_results_end_in_one_line(shell: Any, data: Path, tmp_path: Path) -> None:
    stored, target = tmp_path / "boxes.json", tmp_path / "t.json"
    for text, expected in BAD.items():
        stored.write_text(text)
        assert expected in one_line(shell, 3, data, "--predictions", stored, "--write-thresholds", target), text
    stored.write_text(json.dumps([GOOD]))
    assert shell("eval", data, "--predictions", stored)[0] == 0
    one_line(shell, 3, data, "--predictions", tmp_path / "absent.json")
    one_line(shell, 3, data, "--predictions", tmp_path)
    assert "label file" in one_line(shell, 3, data, "--predictions", data / "annotations" / "instances_val.json")
    assert not target.exists()


def test_an_empty_list_is_a_model_that_found_nothing(shell: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text("[]")
    code, out, err = shell("eval", data, "--predictions", tmp_path / "boxes.json", "--mistakes")
    assert code == 0
    assert out.splitlines()[1].split()[:2] == ["AP", "0.000"]
    assert "6 of 6 photos have no results" in err
    assert "tell apart" not in err


def test_results_of_other_classes_or_without_their_own_list(shell: Any, tmp_path: Path, data: Path) -> None:
    """coco_results.json is read by the coco.json beside it; one that is broken or of other classes is said so."""
    stored, beside = tmp_path / "coco_results.json", tmp_path / "coco.json"
    stored.write_text(json.dumps([GOOD | {"image_id": 1, "category_id": 1}]))
    assert "found image_id 1" in one_line(shell, 3, data, "--predictions", stored)
    tree: dict[str, Any] = {"images": [{"id": 1, "file_name": "3.png"}], "categories": [{"id": 1, "name": "rot"}]}
    beside.write_text(json.dumps(tree))
    assert "class names do not fit; found rot" in one_line(shell, 3, data, "--predictions", stored)
    tree["categories"][0]["name"] = "red"
    beside.write_text(json.dumps(tree))
    assert shell("eval", data, "--predictions", stored)[0] == 0
    tree["images"][0]["file_name"] = "other.png"
    beside.write_text(json.dumps(tree))
    assert "other.png" in one_line(shell, 3, data, "--predictions", stored)
    beside.write_text("{}")
    assert "coco.json: cannot be read" in one_line(shell, 3, data, "--predictions", stored)


def test_options_of_a_model_are_refused(shell: Any, data: Path, tmp_path: Path, colour_model: Path) -> None:
    stored = tmp_path / "boxes.json"
    stored.write_text("[]")
    cases: list[list[object]] = [
        ["--weights", colour_model],
        ["--save-predictions", tmp_path / "x.json"],
        ["--batch", 2],
        ["--backend", "onnxruntime"],
        ["--write-thresholds", tmp_path / "x.onnx"],
    ]
    for args in cases:
        one_line(shell, 2, data, "--predictions", stored, *args)
    assert "overwrite" in one_line(shell, 2, data, "--predictions", stored, "--write-thresholds", stored)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.json", "data"]
