"""Settings: defaults, files and overrides, each mistake in one line, and the round trip through TOML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkit.config import dump_toml, leaf_types, load
from detkit.errors import UsageError


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    name: Literal["sgd", "adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Settings:
    epochs: int = 10
    resume: bool = False
    backbone: str = "efficientnet_lite0"
    out: Path = Path("runs")
    seed: int | None = None
    note: str | None = "first"
    scales: tuple[int, ...] = (320,)
    anchors: tuple[tuple[float, float], ...] = ((1.0, 2.0),)
    classes: tuple[str, ...] = ()
    optim: Optim = field(default_factory=lambda: Optim(lr=0.5))


@dataclass(frozen=True)
class Needy:
    size: int

    def __post_init__(self) -> None:
        if self.size % 32:
            raise ValueError("size must be a multiple of 32")


def toml(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_given_is_the_defaults() -> None:
    assert load(Settings) == Settings()
    assert load(Settings).optim.lr == 0.5, "a nested default is the field's own, not its class's"


def test_file_then_overrides(tmp_path: Path) -> None:
    file = toml(tmp_path, 'epochs = 3\nout = "a/b"\nscales = [64, 96]\nnote = "none"\n[optim]\nlr = 1\nname = "sgd"\n')
    loaded = load(Settings, file, ["optim.lr=0.25", "seed=7", "epochs=5", "epochs=6"])
    want = Settings(
        6, out=Path("a/b"), scales=(64, 96), note=None, seed=7, optim=Optim(lr=0.25, name="sgd", betas=(0.9, 0.999))
    )
    assert loaded == want
    assert isinstance(load(Settings, file).optim.lr, float)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("epochs=-3", "epochs", -3),
        ("resume=True", "resume", True),
        ("backbone=a=b", "backbone", "a=b"),
        ("seed=none", "seed", None),
        ("scales=320,416", "scales", (320, 416)),
        ("scales=[320, 416]", "scales", (320, 416)),
        ("scales=", "scales", ()),
        ("classes=cat,big dog", "classes", ("cat", "big dog")),
        ("classes=[cat]", "classes", ("cat",)),
        ("anchors=[[1, 2], [3, 4.5]]", "anchors", ((1.0, 2.0), (3.0, 4.5))),
        ("out=x y/z", "out", Path("x y/z")),
    ],
)
def test_override_by_type(text: str, name: str, value: object) -> None:
    assert getattr(load(Settings, None, [text]), name) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs", ["--set epochs", "key=value"]),
        ("epoch=3", ["unknown setting 'epoch'", "did you mean 'epochs'?"]),
        ("optim.lrr=3", ["did you mean 'optim.lr'?"]),
        ("beta=3", ["did you mean 'optim.betas'?"]),
        ("zzzzz=3", ["known: epochs"]),
        ("epochs=2.5", ["--set epochs", "found '2.5'", "a whole number"]),
        ("resume=yes", ["true or false"]),
        ("optim.name=adam", ["one of sgd, adamw"]),
        ("optim.betas=0.9", ["a list of 2, each a number"]),
        ("seed=x", ["a whole number, or none"]),
    ],
)
def test_wrong_override(text: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load(Settings, None, [text])
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("epochs = 1\n\nepoch = 3\n", 3, ["did you mean 'epochs'?"]),
        ("# first\n[optim]\nlr = 1\nmomentun = 3\n", 4, ["unknown setting 'optim.momentun'"]),
        ("[optin]\nlr = 1\n", 1, ["unknown setting 'optin'"]),
        ("optim = 3\n", 1, ["'optim' is a table"]),
        ("epochs = true\n", 1, ["a whole number"]),
        ("epochs = 1.0\n", 1, ["a whole number"]),
        ("resume = 1\n", 1, ["true or false"]),
        ('epochs = 1\n[optim]\nlr = "fast"\n', 3, ["a number", "fast"]),
        ("optim.lr = []\n", 1, ["a number"]),
        ("epochs = 1\nepochs = \n", 2, ["not TOML"]),
    ],
)
def test_wrong_file_names_the_line(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load(Settings, toml(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'settings.toml'}:{line}: "), str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the settings"):
        load(Settings, tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b'backbone = "\xe9"')
    with pytest.raises(UsageError, match="not UTF-8"):
        load(Settings, tmp_path / "latin.toml")


def test_required_and_refused_values() -> None:
    with pytest.raises(UsageError, match="setting 'size' is missing; expected a whole number"):
        load(Needy)
    with pytest.raises(UsageError, match="multiple of 32"):
        load(Needy, None, ["size=33"])
    assert load(Needy, None, ["size=64"]).size == 64


def test_leaf_types_are_dotted() -> None:
    assert list(leaf_types(Settings))[-3:] == ["optim.lr", "optim.name", "optim.betas"]


numbers = st.floats(allow_nan=False)
texts = st.text().filter(lambda text: text != "none")
settings = st.builds(
    Settings,
    epochs=st.integers(-(2**63), 2**63 - 1),
    resume=st.booleans(),
    backbone=st.text(),
    out=st.builds(Path, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    seed=st.none() | st.integers(),
    note=st.none() | texts,
    scales=st.lists(st.integers()).map(tuple),
    anchors=st.lists(st.tuples(numbers, numbers)).map(tuple),
    classes=st.lists(st.text()).map(tuple),
    optim=st.builds(Optim, lr=numbers, name=st.sampled_from(["sgd", "adamw"]), betas=st.tuples(numbers, numbers)),
)


@given(settings)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, original: Settings) -> None:
    file = toml(tmp_path_factory.getbasetemp(), dump_toml(original))
    assert load(Settings, file) == original


def test_the_word_none_cannot_be_a_text() -> None:
    with pytest.raises(UsageError, match="means off"):
        dump_toml(dataclasses.replace(Settings(), note="none"))
