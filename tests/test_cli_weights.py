"""`detkit weights`: what is there, what its card says, whether it is whole, and fetching what is published."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_model import CARD, write_fake_model
from file_server import FileServer
from test_weights import write_safetensors
from typer.testing import CliRunner, Result

from detkit import cli, manifest
from detkit.errors import WeightsError
from detkit.manifest import find_weights, models_named, read_manifest, user_folder

RUNNER = CliRunner()
PUBLISHED = b"a published model" * 1000
FULL = replace(
    CARD,
    class_thresholds={"red": 0.25},
    training={
        "data": "made up",
        "images": 3,
        "val": "made up",
        "val_images": 2,
        "metrics": {"AP": 0.5, "AR1": 0.25},
        "intervals": {"AP": [0.4, 0.6]},
        "left_out_boxes": 0,
    },
    licences={"weights": "CC0", "data": "none"},
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with "fake", shipped in two files, and the user's own folder, empty."""
    where = tmp_path / "weights"
    where.mkdir()
    text = 'default = "fake"\n'
    for path in (write_fake_model(where / "fake.onnx", FULL), write_safetensors(where / "fake.safetensors", FULL)):
        text += _entry("fake", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), 'classes = ["red", "blue"]')
    (where / "manifest.toml").write_text(text)
    monkeypatch.setattr(manifest, "weights_folder", lambda: where)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return where


def _entry(name: str, file: str, sha256: str, *more: str) -> str:
    own = f'[[weights]]\nname = "{name}"\nfile = "{file}"\nsha256 = "{sha256}"\nlicence = "CC0; of its own"\n'
    return own + 'accuracy = { AP = 0.25, split = "made up" }\n' + "\n".join(more) + "\n"


def publish(folder: Path, url: str, *, digits: int = 8, max_bytes: int = len(PUBLISHED)) -> None:
    """Add the model "far", as a server has it."""
    sha256 = hashlib.sha256(PUBLISHED).hexdigest()[:digits]
    about = (f'url = "{url}"', f"max_bytes = {max_bytes}", 'task = "torchvision"', 'classes = "coco"')
    with (folder / "manifest.toml").open("a") as file:
        file.write(_entry("far", "far.pth", sha256, *about))


def run(*arguments: str) -> Result:
    return RUNNER.invoke(cli.app, ["weights", *arguments])


def said(done: Result) -> str:
    """The last line on stderr."""
    return done.stderr.splitlines()[-1]


def test_the_list_names_every_model_and_where_it_is(folder: Path) -> None:
    publish(folder, "https://example.com/far.pth")
    done = run("list")
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["name", "files", "MB", "task", "px", "classes", "accuracy", "licence", "here"]
    assert lines[1][:6] == ["fake", "onnx", "safetensors", "0.0", "yolo", "64x64"]
    assert lines[1][6:] == ["2", "AP", "0.250", "(made", "up)", "CC0", "with", "detkit"]
    assert lines[2] == [
        "far",
        "pth",
        "0.0",
        "torchvision",
        "-",
        "80",
        "AP",
        "0.250",
        "(made",
        "up)",
        "CC0",
        "not",
        "pulled",
    ]
    assert said(done) == "the default model is fake"


def test_the_list_as_json(folder: Path) -> None:
    publish(folder, "https://example.com/far.pth")
    entries = json.loads(run("list", "--json").stdout)["weights"]
    assert [(entry["name"], entry["file"], entry["default"]) for entry in entries] == [
        ("fake", "fake.onnx", True),
        ("fake", "fake.safetensors", True),
        ("far", "far.pth", False),
    ]
    assert entries[0]["bytes"] == (folder / "fake.onnx").stat().st_size
    assert entries[0]["input_hw"] == [64, 64]
    assert entries[2]["path"] is None
    assert entries[2]["classes"][:2] == ["person", "bicycle"]


def test_the_list_names_what_is_missing_or_damaged(folder: Path) -> None:
    (folder / "fake.safetensors").unlink()
    assert run("list").stdout.splitlines()[1].endswith("missing")
    (folder / "fake.onnx").write_bytes(b"no model")
    done = run("list")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1].endswith("damaged")


def test_an_absent_manifest_lists_nothing(folder: Path) -> None:
    (folder / "manifest.toml").unlink()
    assert json.loads(run("list", "--json").stdout) == {"weights": []}


@pytest.mark.parametrize("named", [True, False])
def test_the_whole_card_is_told(folder: Path, named: bool) -> None:
    given = "fake" if named else str(folder / "fake.onnx")
    done = run("info", given)
    assert done.exit_code == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "task yolo",
        "classes 2: red, blue",
        "input 64x64 px, letterbox, padded with grey 114",
        "thresholds conf 0.5, iou 0.6, red 0.25",
        "trained on data made up, images 3, left out boxes 0",
        "measured on made up, 2 photos",
        "AP 0.5 (95 %: 0.4 to 0.6)",
        "AR1 0.25",
        "licence of the weights CC0",
        f"sha256 {hashlib.sha256((folder / 'fake.onnx').read_bytes()).hexdigest()}",
    ):
        assert line in lines, line
    document = json.loads(run("info", given, "--json").stdout)
    assert document["card"] == json.loads(FULL.to_json())
    assert len(document["files"]) == (2 if named else 1)
    assert (document["listed"] or {}).get("licence") == ("CC0; of its own" if named else None)


def test_a_card_may_hold_anything(folder: Path) -> None:
    odd: dict[str, Any] = {
        "metrics": {"AP": "\x1b[31mred", "x": [1, {"y": None}]},
        "intervals": [1],
        "val": {},
        "a": {},
    }
    for training in (odd, {"metrics": 3}, {"metrics": {"AP": 1}, "intervals": {"AP": [1]}}):
        path = write_fake_model(folder / "odd.onnx", replace(CARD, training=training))
        done = run("info", str(path))
        assert done.exit_code == 0
        assert "\x1b" not in done.stdout


def test_info_of_what_is_not_there_or_no_model(folder: Path) -> None:
    for given in ("fakes", str(folder / "manifest.toml"), str(folder), str(write_fake_model(folder / "m.onnx", None))):
        done = run("info", given)
        assert done.exit_code == 4, given
        assert len(done.stderr.splitlines()) == 1


def test_info_of_a_published_model_says_how_to_get_it(folder: Path) -> None:
    publish(folder, "https://example.com/far.pth")
    done = run("info", "far")
    assert done.exit_code == 0
    assert "not yet: detkit weights pull far" in done.stdout


def test_verify_names_the_file_that_differs(folder: Path) -> None:
    assert run("verify").exit_code == run("verify", "fake").exit_code == 0
    (folder / "fake.onnx").write_bytes((folder / "fake.onnx").read_bytes()[:-1] + b"x")
    done = run("verify")
    assert done.exit_code == 4
    assert f"{folder / 'fake.onnx'}: damaged; install detkit again; found sha256 " in said(done)
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["result", "damaged", "ok"]
    (folder / "fake.safetensors").unlink()
    done = run("verify", "--json")
    assert done.exit_code == 4
    assert [entry["problem"] for entry in json.loads(done.stdout)["weights"]] == ["damaged", "is missing"]
    assert said(done) == "detkit: error: 2 of 2 files are not what the list of models says"
    assert run("verify", "nobody").exit_code == 4


def test_verify_leaves_out_what_was_never_pulled(folder: Path) -> None:
    publish(folder, "https://example.com/far.pth")
    assert run("verify").exit_code == 0
    done = run("verify", "far")
    assert done.exit_code == 4
    assert "detkit weights pull far" in said(done)


def test_a_pulled_model_is_found_by_its_name(folder: Path) -> None:
    with FileServer(PUBLISHED).running() as server:
        publish(folder, server.url)
        with pytest.raises(WeightsError, match="the model 'far' is not here yet: detkit weights pull far"):
            find_weights("far", ".pth")
        done = run("pull", "far")
        assert done.exit_code == 0
        assert done.stdout == f"{user_folder() / 'far.pth'}\n"
        assert "its first 8 digits are as published" in said(done)
        again = json.loads(run("pull", "far", "--json").stdout)["weights"]
    assert len(server.asked) == 1
    assert again[0]["pulled"] is False
    assert again[0]["sha256"] == hashlib.sha256(PUBLISHED).hexdigest()
    assert find_weights("far", ".pth").read_bytes() == PUBLISHED
    assert run("list").stdout.splitlines()[2].endswith("pulled")
    assert run("verify", "far").exit_code == 0
    with pytest.raises(WeightsError, match=r"is published as far.pth only; expected a .onnx file"):
        find_weights("far")


def test_a_pulled_file_that_was_damaged_is_fetched_again(folder: Path) -> None:
    with FileServer(PUBLISHED).running() as server:
        publish(folder, server.url, digits=64)
        user_folder().mkdir(parents=True)
        (user_folder() / "far.pth").write_bytes(b"damaged")
        with pytest.raises(WeightsError, match="damaged; detkit weights pull far"):
            find_weights("far", ".pth")
        done = run("pull", "far")
    assert done.exit_code == 0
    assert "fetching it again" in done.stderr
    assert find_weights("far", ".pth").read_bytes() == PUBLISHED


def test_what_goes_wrong_is_one_line(folder: Path) -> None:
    with FileServer(PUBLISHED + b"x").running() as server:
        publish(folder, server.url, max_bytes=10**6)
        done = run("pull", "far")
        assert (done.exit_code, len(done.stderr.splitlines())) == (4, 2)
        assert "another file than the list of models means" in said(done)
        assert list(user_folder().iterdir()) == []
        server.status = 404
        done = run("pull", "far")
        assert (done.exit_code, len(done.stderr.splitlines())) == (6, 2)
    done = run("pull", "far")
    assert done.exit_code == 6
    assert "cannot be reached" in said(done)
    assert run("pull", "fra").exit_code == 4
    assert "did you mean far" in said(run("pull", "fra"))


def test_what_comes_with_detkit_needs_no_fetching(folder: Path) -> None:
    done = run("pull", "fake")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [str(folder / "fake.onnx"), str(folder / "fake.safetensors")]
    (folder / "fake.onnx").unlink()
    assert run("pull", "fake").exit_code == 4


@pytest.mark.parametrize(
    "change",
    [
        'file = "../far.pth"',
        'sha256 = "abc"',
        'sha256 = "ABCDEF0123456789"',
        'url = ""',
        "max_bytes = 0",
        'nonsense = "x"',
    ],
)
def test_a_manifest_that_says_too_little_or_too_much_is_refused(folder: Path, change: str) -> None:
    publish(folder, "https://example.com/far.pth")
    assert models_named("far")[0].max_bytes == len(PUBLISHED)
    text = (folder / "manifest.toml").read_text()
    key = change.partition(" ")[0]
    head, _, tail = text.rpartition("[[weights]]")
    lines = [line for line in tail.splitlines() if not line.startswith(f"{key} ")]
    (folder / "manifest.toml").write_text(f"{head}[[weights]]" + "\n".join([*lines, change]) + "\n")
    with pytest.raises(WeightsError, match=r"manifest\.toml: cannot be used"):
        read_manifest()


def test_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "detkit" / "weights"
    for none in ("", "relative"):  # the XDG rules: a path that is not absolute counts as none
        monkeypatch.setenv("XDG_DATA_HOME", none)
        assert user_folder() == Path.home() / ".local" / "share" / "detkit" / "weights"
