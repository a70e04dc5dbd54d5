"""Windlass takes a trained model to a monitored production endpoint.

The public face is `package`, `optimize`, `serve`, `Client` and `Version`; each is imported when it is first used, so
that `import windlass` costs nothing. Must never import numpy, a framework or a room by itself.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# onnxruntime's wheels write to the user's cache and report to their maker unless told not to before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC = {
    "Client": "windlass.client.inference:Client",
    "Server": "windlass.serving.launch:Server",
    "Version": "windlass.sdk:Version",
    "WindlassError": "windlass.errors:WindlassError",
    "optimize": "windlass.sdk:optimize",
    "package": "windlass.sdk:package",
    "serve": "windlass.sdk:serve",
}
__all__ = ["Client", "Server", "Version", "WindlassError", "__version__", "optimize", "package", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'windlass' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
