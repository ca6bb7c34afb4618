"""The house rules a reader cannot check by eye: who may import whom, which names are banned, who may print."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Import downwards only; modules on one line are strangers to each other. A name with a dot is more exact and wins.
LAYERS = (
    ("errors",),
    ("allocator", "boxes", "files", "model_header", "image_header", "opencv", "nms_operator", "coco_names"),
    ("manifest", "download", "onnx_header"),
    ("nms", "decoding"),  # nms asks boxes for the overlap: each formula is written once
    ("detections",),
    ("images", "draw", "config", "weights", "thresholds"),
    ("card_writer",),
    ("data", "models"),
    ("engines",),
    ("infer", "evaluate"),
    ("export",),
    ("train",),
    ("cli",),
    ("", "__main__"),  # detkit/__init__.py, which offers names of every layer lazily, and `python -m detkit`
)
BANNED_NAMES = {"utils", "util", "misc", "common", "core", "base", "helpers", "helper"}
TORCH_LAYERS = {"models", "train", "export", "engines.torch"}  # may import torch when they are imported
TORCH_PACKAGES = {"torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript"}
TERMINAL_PACKAGES = {"rich", "typer", "click"}
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
ROOT = Path(__file__).parent.parent / "detkit"


def module_name(path: Path, root: Path) -> str:
    """`infer/video.py` is "infer.video"; a package's `__init__.py` is the package."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str | None:
    """The entry of LAYERS a module belongs to."""
    top = module.partition(".")[0]
    return module if module in LEVELS else top if top in LEVELS else None


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Every imported module, absolute, and its line; imports inside functions count, TYPE_CHECKING ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                home = f"detkit.{module}".rstrip(".").split(".")
                home = home[: len(home) - node.level + is_package]
                origin = ".".join([*home, *([origin] if origin else [])])
            for alias in node.names:  # `from detkit import boxes` imports detkit.boxes
                yield (f"{origin}.{alias.name}" if origin.split(".")[0] == "detkit" else origin), node.lineno


def on_import(tree: ast.Module) -> ast.Module:
    """The part of a module that runs when it is imported: no function bodies, no TYPE_CHECKING blocks."""

    class Pruned(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Pruned().visit(ast.parse(ast.unparse(tree)))


def within(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def violations(root: Path) -> list[str]:
    """Everything wrong with the package under `root`, one line each."""
    found: list[str] = []
    for path in sorted(root.rglob("*.py")):
        module = module_name(path, root)
        where = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{where}: a module may not be called {part}" for part in set(module.split(".")) & BANNED_NAMES]
        layer = layer_of(module)
        if layer is None:
            found.append(f"{where}: has no place in LAYERS")
            continue
        is_package = path.name == "__init__.py"
        every = list(imports(tree, module, is_package))
        found += [f"{where}:{line}: {problem}" for name, line in every if (problem := upward(layer, module, name))]
        if layer not in ("cli", "", "__main__"):
            found += [f"{where}:{n}: imports {m} below cli" for m, n in every if within(m, TERMINAL_PACKAGES)]
            prints = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print")
            found += [f"{where}:{call.lineno}: prints below cli" for call in prints]
        if not within(module, TORCH_LAYERS):
            early = [name for name, _ in imports(on_import(tree), module, is_package)]
            heavy = [name for name in early if within(name, TORCH_PACKAGES | {f"detkit.{t}" for t in TORCH_LAYERS})]
            found += [f"{where}: imports {name} when it is imported" for name in heavy]
    return found


def upward(layer: str, module: str, imported: str) -> str | None:
    """What is wrong with `module` importing `imported`, or None."""
    if imported.partition(".")[0] != "detkit":
        return None
    target = imported.removeprefix("detkit").removeprefix(".")
    other = layer_of(target)
    if other is None or other == "":  # detkit itself, or a public name of it
        top_names = "__version__"
        return None if target == top_names or layer in ("cli", "__main__") else "imports detkit itself; name the module"
    if other == layer or LEVELS[other] < LEVELS[layer]:
        return None
    return f"{module} imports {other}, which is {'beside' if LEVELS[other] == LEVELS[layer] else 'above'} it"


def test_detkit_keeps_the_rules() -> None:
    assert violations(ROOT) == []


PLANTED = {
    "downwards": ("infer/video.py", "from detkit.detections import Detections", None),
    "upwards": ("nms.py", "from detkit.detections import Detections", "nms.py:1: nms imports detections"),
    "sibling": ("data/coco.py", "import detkit.models.yolo", "data/coco.py:1: data.coco imports models, which is besi"),
    "siblings evaluate, infer": ("evaluate/coco.py", "from detkit.infer import sources", "which is beside it"),
    "inside a function": ("boxes.py", "def f():\n    from detkit import nms", "boxes.py:2: boxes imports nms"),
    "relative": ("data/yolo.py", "from ..engines import onnx", "data/yolo.py:1: data.yolo imports engines"),
    "relative in a package": ("data/__init__.py", "from ..train import fit", "data imports train, which is above"),
    "relative, own package": ("data/yolo.py", "from .dataset import Sample\nfrom . import dataset", None),
    "banned name": ("data/utils.py", "", "data/utils.py: a module may not be called utils"),
    "banned package": ("common/boxes.py", "", "may not be called common"),
    "unknown module": ("magic.py", "", "magic.py: has no place in LAYERS"),
    "print": ("draw.py", "def f():\n    print(1)", "draw.py:2: prints below cli"),
    "rich": ("train/fit.py", "def f():\n    from rich.progress import track", "train/fit.py:2: imports rich.progress"),
    "cli may": ("cli/eval.py", "import typer\nprint(1)\nfrom detkit.train import fit", "imports detkit.train.fit when"),
    "cli lazily": ("cli/eval.py", "import typer\ndef f():\n    from detkit.train import fit\n    print(1)", None),
    "torch": ("engines/onnx.py", "import torch.nn", "engines/onnx.py: imports torch.nn when it is imported"),
    "torch for types": (
        "engines/onnx.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        None,
    ),
    "torch where it belongs": ("engines/torch.py", "import torch\nfrom detkit.models import build", None),
    "torch lazily": ("infer/predictor.py", "def f():\n    import torch", None),
    "torch by way of models": ("engines/__init__.py", "from detkit.models import build", "imports detkit.models.build"),
    "the top": ("data/voc.py", "from detkit import Detections", "imports detkit itself; name the module"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, case: str) -> None:
    where, source, expected = PLANTED[case]
    for path, text in {"errors.py": "", "cli/__init__.py": "import typer", where: source}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = violations(tmp_path)
    if expected is None:
        assert found == []
    else:
        assert any(expected in line for line in found), found


def light_modules() -> list[str]:
    """Every module that may not bring torch with it."""
    names = sorted(module_name(path, ROOT) for path in ROOT.rglob("*.py") if path.name != "__main__.py")
    return [f"detkit.{name}".rstrip(".") for name in names if not within(name, TORCH_LAYERS)]


def test_light_modules_import_without_torch() -> None:
    """Torch and its friends made un-importable, every light module is imported, in one fresh interpreter."""
    script = f"""
import importlib, sys
for name in {sorted(TORCH_PACKAGES)}:
    sys.modules[name] = None
for name in {light_modules()}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.returncode == 0, done.stderr
