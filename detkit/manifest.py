"""The models that have names: those that come with detkit, and published ones the user has pulled; find and verify."""

from __future__ import annotations

import difflib
import os
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from detkit.coco_names import COCO_NAMES
from detkit.errors import WeightsError
from detkit.files import sha256_of
from detkit.model_header import SUFFIXES

_SHORTEST_HASH = 8  # hex digits; PyTorch's published files carry as many in their names


@dataclass(frozen=True)
class ModelFile:
    """One model file, as `weights/manifest.toml` lists it.

    Args:
        name: what `--weights` calls it; the .onnx and the .safetensors of one model share it.
        file: file name, in `weights_folder` or, once it is pulled, in `user_folder`.
        sha256: of the file, in hexadecimal: all 64 digits, or as many of the first ones as were published, 8 or more.
        classes: class names; of what comes with detkit in label order.
        licence: the weights' licence.
        accuracy: measured figures and the split they were measured on: AP, AP50, split.
        url: where it can be had from; "" for what only comes with detkit.
        max_bytes: what `url` may give at most.
        task: what its card would say, for a file without one.
    """

    name: str
    file: str
    sha256: str
    classes: tuple[str, ...]
    licence: str
    accuracy: dict[str, Any]
    url: str = ""
    max_bytes: int = 0
    task: str = ""

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file or not re.fullmatch(f"[0-9a-f]{{{_SHORTEST_HASH},64}}", self.sha256):
            raise ValueError(f"{self.name}: a file name without a folder and {_SHORTEST_HASH} to 64 hexadecimal digits")
        if not self.url and len(self.sha256) < 64:
            raise ValueError(f"{self.name}: what comes with detkit has all 64 digits of its sha256")
        if bool(self.url) != bool(self.max_bytes):
            raise ValueError(f"{self.name}: url and max_bytes go together")

    @property
    def path(self) -> Path | None:
        """Where the file is: with detkit, or among the pulled ones; None where it is not."""
        places = [weights_folder(), *([user_folder()] if self.url else [])]
        return next((place / self.file for place in places if (place / self.file).is_file()), None)

    def verified(self) -> Path:
        """The file, once its bytes are the ones the manifest promises.

        Raises:
            WeightsError: it is not here, cannot be read, or is damaged.
        """
        path = self.path
        if path is None:
            if self.url:
                raise WeightsError(f"the model {self.name!r} is not here yet: detkit weights pull {self.name}")
            raise WeightsError("is missing; install detkit again", file=weights_folder() / self.file)
        again = f"detkit weights pull {self.name}" if self.url else "install detkit again"
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise WeightsError(f"cannot be read: {error.strerror}; {again}", file=path) from error
        if not digest.startswith(self.sha256):
            found, expected = f"sha256 {digest[:12]}...", f"{self.sha256[:12]}..."
            raise WeightsError(f"damaged; {again}", file=path, found=found, expected=expected)
        return path


def find_weights(name_or_path: str | Path | None = None, suffix: str = ".onnx") -> Path:
    """Find a model file; one with a name in the manifest is verified against its sha256.

    Args:
        name_or_path: a file, the name of a shipped or pulled model, or None for the default model.
        suffix: which file of such a model: ".onnx" to run, ".safetensors" to go on training.
    Raises:
        WeightsError: no such file or model, or a file that is damaged or not pulled yet.
    """
    default, models = read_manifest() if name_or_path is None or _is_bare(name_or_path) else ("", ())
    name = default if name_or_path is None else str(name_or_path)
    for model in models:
        if model.name == name and model.file.endswith(suffix):
            return model.verified()
    others = [model for model in models if model.name == name]
    if others:
        comes = "is published" if others[0].url else "comes with detkit"
        files = ", ".join(model.file for model in others)
        hint = "; detkit import makes one of it" if others[0].url else ""
        raise WeightsError(f"the model {name!r} {comes} as {files} only", expected=f"a {suffix} file{hint}")
    if not name:
        raise WeightsError("no default model is installed; name one with --weights", file=weights_folder())
    path = Path(name)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise WeightsError("is a folder, not a model file", file=path, expected=_model_in(path))
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", file=path) from error
    raise WeightsError(f"no model {name[:60]!r}: no such file{_nearest(path, models)}")


def weights_folder() -> Path:
    """Where the models that come with detkit lie: inside the installed package, else beside it in a source tree."""
    package = Path(__file__).parent
    installed = package / "weights_files"
    return installed if installed.is_dir() else package.parent / "weights"


def is_shipped(path: Path) -> bool:
    """Is it a file that comes with detkit, which must keep its sha256?"""
    _, models = read_manifest()
    return any(not model.url and path.resolve() == (weights_folder() / model.file).resolve() for model in models)


def user_folder() -> Path:
    """Where pulled models lie: `detkit/weights` in the user's folder for applications' data."""
    windows = sys.platform == "win32"
    home = os.environ.get("LOCALAPPDATA" if windows else "XDG_DATA_HOME", "")
    fallback = Path.home() / ("AppData/Local" if windows else ".local/share")
    return (Path(home) if Path(home).is_absolute() else fallback) / "detkit" / "weights"


def read_manifest() -> tuple[str, tuple[ModelFile, ...]]:
    """The default model's name and every model file the manifest lists; `ModelFile.path` says whether it is here.

    Raises:
        WeightsError: a manifest that cannot be read; a missing one just lists nothing.
    """
    import tomllib

    path = weights_folder() / "manifest.toml"
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
        return str(tree["default"]), tuple(_model_file(entry) for entry in tree.get("weights", []))
    except FileNotFoundError:
        return "", ()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"cannot be used: {error}", file=path) from error


def models_named(name: str) -> list[ModelFile]:
    """The files of the model of that name.

    Raises:
        WeightsError: the manifest has no such name.
    """
    _, models = read_manifest()
    found = [model for model in models if model.name == name]
    if not found:
        raise WeightsError(f"no model {name[:60]!r} in the list of models{_nearest(Path(name), models, files=False)}")
    return found


def _model_file(entry: dict[str, Any]) -> ModelFile:
    classes = COCO_NAMES if entry["classes"] == "coco" else tuple(entry["classes"])
    unknown = entry.keys() - {field.name for field in fields(ModelFile)}
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
    return ModelFile(**entry | {"classes": classes})


def _model_in(folder: Path) -> str:
    """What to give instead of a folder: its best model, where it is a run's."""
    best = folder / "best.onnx"
    return str(best) if best.is_file() else "an .onnx or .safetensors file"


def _is_bare(name_or_path: str | Path) -> bool:
    """Could be the name of a model: no folder and no suffix of a model file."""
    path = Path(name_or_path)
    return path.name == str(name_or_path) and path.suffix.lower() not in SUFFIXES


def _nearest(path: Path, models: tuple[ModelFile, ...], *, files: bool = True) -> str:
    """A hint: the model names and, with `files`, neighbouring files that look like `path`."""
    try:
        beside = {p.name: str(p) for p in path.parent.iterdir() if files and p.suffix.lower() in SUFFIXES}
    except OSError:
        beside = {}
    known = {model.name: model.name for model in models} | beside
    near = difflib.get_close_matches(path.name, known, n=2, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(known[name] for name in near) + "?"
    names = sorted({model.name for model in models if not model.url})
    return f"; models that come with detkit: {', '.join(names)}" if names else ""
