"""detkit: train, run and prove object detectors."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detkit.detections import Detections
    from detkit.errors import DetkitError
    from detkit.images import read_image
    from detkit.infer.predictor import Predictor

__all__ = ["Detections", "DetkitError", "Predictor", "__version__", "read_image"]

__version__ = "0.1.0"

_HOMES = {  # public name -> the module it lives in, imported when the name is first used
    "Detections": "detkit.detections",
    "DetkitError": "detkit.errors",
    "Predictor": "detkit.infer.predictor",
    "read_image": "detkit.images",
}


# Since 1.29 onnxruntime tells its makers of every run, and keeps a device id in the home folder, unless told not to
# before it is imported. Nothing here is sent anywhere; a value the user has set stays.
for _switch in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):  # the second is its name in some versions
    os.environ.setdefault(_switch, "1")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detkit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
