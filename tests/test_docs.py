"""The pages tell the truth: every command line on them names commands, options and settings that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from detkit.cli import COMMANDS, _load

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def command_lines(text: str) -> list[str]:
    """Every `detkit ...` in a page: lines of code blocks, continued ones joined, and code within sentences."""
    blocks = re.findall(r"^```(?:console|sh|bash)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spoken = re.findall(r"`([^`\n]*(?:\n[^`\n]*)?)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    found = [re.sub(r"^(\$ )?(torchrun .* -m )?(?=detkit )", "", line) for line in [*lines, *spoken]]
    return [" ".join(line.split()).partition(" #")[0] for line in found if line.startswith("detkit ")]


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command (or sub-command) that words name, and the words after it."""
    command, rest = _load(words[0]), words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"no sub-command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_can_be_typed(page: Path) -> None:
    lines = command_lines(page.read_text("utf-8"))
    assert lines
    for line in lines:
        words = shlex.split(line)[1:]
        if not words or words[0].startswith("-"):
            continue
        assert words[0] in COMMANDS, line
        command, rest = resolve(words)
        options = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
        unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options]
        assert not unknown, f"{line}: no option {unknown[0]}"


def test_every_setting_on_the_pages_exists_with_the_default_given() -> None:
    pytest.importorskip("torch")
    from detkit.config import leaf_types
    from detkit.train.settings import TrainSettings

    settings = leaf_types(TrainSettings)
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    named = set(re.findall(r"--set ([a-z][\w.]*)=", text))
    training = (ROOT / "docs" / "training.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", training, flags=re.MULTILINE)
    for keys, defaults in rows:
        found = re.findall(r"`([\w.]+)`", keys)
        if not all(key in settings for key in found):
            assert not any(key in settings for key in found), found  # another table
            continue
        named |= set(found)
        values = [part.strip().strip("`") for part in defaults.split(",")]
        for key, value in zip(found, values, strict=False):
            own: Any = TrainSettings()
            for part in key.split("."):
                own = getattr(own, part)
            if re.fullmatch(r"[\d.]+", value):
                assert float(own) == float(value), key
            elif isinstance(own, str):
                assert own == value, key
    assert len(named) > 30
    assert named <= set(settings), named - set(settings)


def test_the_checks_themselves() -> None:
    page = "`detkit data check\nX` and\n```console\n$ detkit train a \\\n    --epochs 3   # 320 px\nnot detkit\n```\n"
    assert sorted(command_lines(page)) == ["detkit data check X", "detkit train a --epochs 3"]
