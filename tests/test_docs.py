"""The pages tell the truth: their command lines can be typed, their examples run, their links and tables are right."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
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


EXAMPLES = [
    (page.name, example)
    for page in PAGES[1:]  # that of the README is run by test_readme.py
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("page", "example"), EXAMPLES, ids=[page for page, _ in EXAMPLES])
def test_python_examples_run(page: str, example: str) -> None:
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "chelsea.jpg" in done.stdout


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
        lost = [link for link in links if "://" not in link and not (page.parent / link).exists()]
        assert not lost, f"{page.name}: {lost[0]}"


def test_records_on_the_page_are_records() -> None:
    """Every line of JSON validates; every kind of record has an example."""
    from jsonschema import Draft202012Validator

    from detkit.infer.records import SCHEMA_FILE

    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    text = (ROOT / "docs" / "detect.md").read_text("utf-8")
    blocks = re.findall(r"^```json\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    records = [json.loads(line) for block in blocks for line in block.splitlines()]
    for record in records:
        Draft202012Validator(schema).validate(record)
    assert sorted(record["kind"] for record in records) == sorted(schema["properties"]["kind"]["enum"])


def test_outputs_and_exit_codes_on_the_page_are_all_there_are() -> None:
    from detkit.errors import ExitCode
    from detkit.infer.sinks.opening import KINDS

    text = (ROOT / "docs" / "detect.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \| `[^|]+", text.partition("| `--to` |")[2].partition("\n\n")[0], re.MULTILINE) == [
        *KINDS
    ]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert codes == {int(code) for code in ExitCode} - {ExitCode.BUG, ExitCode.GATE, ExitCode.INCONCLUSIVE}


def test_the_checks_themselves() -> None:
    page = "`detkit data check\nX` and\n```console\n$ detkit train a \\\n    --epochs 3   # 320 px\nnot detkit\n```\n"
    assert sorted(command_lines(page)) == ["detkit data check X", "detkit train a --epochs 3"]
