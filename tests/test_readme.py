"""The README tells the truth: every command has its section, every make target and every link exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from detkit.cli import COMMANDS


@pytest.fixture(scope="module")
def readme(repo: Path) -> str:
    return (repo / "README.md").read_text(encoding="utf-8")


def headings(text: str) -> set[str]:
    outside_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^#{2,4} `?(?:detkit )?([\w-]+)`?\s*$", outside_code, flags=re.MULTILINE))


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))


def relative_links(text: str) -> set[str]:
    """Targets of links and pictures, Markdown's and HTML's, that are not web addresses; anchors are cut off."""
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return {t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)}


def test_every_command_has_a_section(readme: str) -> None:
    missing = set(COMMANDS) - headings(readme)
    assert not missing, f"README.md has no section for: {', '.join(sorted(missing))}"


def test_every_make_target_exists(readme: str, repo: Path) -> None:
    mentioned = set(
        re.findall(r"\bmake ([a-z][\w-]*)", " ".join(re.findall(r"`[^`]+`|^make .*$", readme, re.MULTILINE)))
    )
    assert {"demo", "test"} <= mentioned
    assert mentioned <= make_targets((repo / "Makefile").read_text(encoding="utf-8"))


def test_links_and_pictures_exist(readme: str, repo: Path) -> None:
    links = relative_links(readme)
    assert links
    assert [link for link in sorted(links) if not (repo / link).exists()] == []


def test_every_sample_photo_has_its_licence(repo: Path) -> None:
    listed = (repo / "tests" / "data" / "README.md").read_text(encoding="utf-8")
    photos = [path.name for path in (repo / "tests" / "data" / "photos").iterdir()]
    assert photos
    assert [name for name in photos if f"photos/{name}`" not in listed] == []


def test_the_checks_themselves() -> None:
    assert headings("## detect\n### `detkit eval`\n```\n## train\n```\n") == {"detect", "eval"}
    assert relative_links('[a](b.md#c) ![d](e.png "t") <img src="f.jpg"> [g](https://x.y) [h](#i)') == {
        "b.md",
        "e.png",
        "f.jpg",
    }


def test_the_python_example_runs(readme: str, repo: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "chelsea.jpg cat 0." in done.stdout
