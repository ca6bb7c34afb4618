"""OpenCV is loaded late, and says what to do when it cannot be."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_importing_does_not_load_opencv():
    code = "import sys, detkit.images, detkit.draw; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (
            "libGL.so.1: cannot open shared object file: No such file or directory",
            "apt-get install libgl1 libglib2.0-0",
        ),
        ("No module named 'cv2'", "pip install opencv-python"),
    ],
)
def test_opencv_that_cannot_be_imported_names_the_remedy(reason, remedy):
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            raise ImportError({reason!r})
sys.meta_path.insert(0, Refuse())
from detkit.errors import MissingExtraError
from detkit.images import letterbox
import numpy as np
try:
    letterbox(np.zeros((4, 4, 3), np.uint8), (8, 8))
except MissingExtraError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert remedy in result.stdout
    assert len(result.stdout.splitlines()) == 1
