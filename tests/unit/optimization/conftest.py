"""Fixtures of the tests of optimization."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def trainable() -> ModuleType:
    """`trainable.py`: small networks with something to learn."""
    path = Path(__file__).parents[2] / "conformance" / "trainable.py"
    made = importlib.util.spec_from_file_location("windlass_trainable", path)
    if made is None or made.loader is None:
        raise RuntimeError("the networks to train are not beside the tests")
    module = importlib.util.module_from_spec(made)
    sys.modules["windlass_trainable"] = module
    made.loader.exec_module(module)
    return module
