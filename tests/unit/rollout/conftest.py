"""Fixtures of the rollouts' tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def simulation() -> ModuleType:
    """`simulation.py` beside this file."""
    made = importlib.util.spec_from_file_location("rollout_simulation", Path(__file__).with_name("simulation.py"))
    if made is None or made.loader is None:
        raise RuntimeError("the simulation is not beside its tests")
    module = importlib.util.module_from_spec(made)
    sys.modules["rollout_simulation"] = module
    made.loader.exec_module(module)
    return module
