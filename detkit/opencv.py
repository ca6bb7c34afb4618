"""OpenCV, imported when first needed: it takes a tenth of a second and, on a bare server, system libraries."""

from __future__ import annotations

import functools
import os
from typing import Any

from detkit.errors import MissingExtraError


@functools.cache
def load_cv2() -> Any:
    """The cv2 module, silent on stderr unless the user sets OPENCV_LOG_LEVEL.

    Raises:
        MissingExtraError: OpenCV or a system library it links to is missing.
    """
    try:
        import cv2
    except ImportError as error:
        text = str(error)
        if "libGL" in text or "libgthread" in text or "libglib" in text:
            library = text.split(":")[0]
            raise MissingExtraError(
                f"OpenCV needs the system library {library}: run `apt-get install libgl1 libglib2.0-0`, "
                "or replace opencv-python: `pip install opencv-python-headless`"
            ) from error
        raise MissingExtraError(f"OpenCV cannot be imported ({text}): run `pip install opencv-python`") from error
    if "OPENCV_LOG_LEVEL" not in os.environ:
        set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
        set_log_level(0)  # silent: what fails is raised as an error instead
    return cv2
