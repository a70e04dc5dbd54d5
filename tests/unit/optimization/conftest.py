"""Fixtures of the tests of optimization."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: for nets this small, threads wait for each other longer than they compute."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms of networks keep the network alone: writing the graph takes seconds, and has tests of its own."""
    pytest.importorskip("torch")
    from windlass.optimization import form as forms
    from windlass.optimization.training import export

    def to_form(
        network: object, parent: forms.Form, step: forms.Step, materials: object, *, notes: object = ()
    ) -> object:
        return forms.Form({}, network=network, steps=(*parent.steps, step), notes=tuple(notes))

    monkeypatch.setattr(export, "to_form", to_form)


@pytest.fixture(scope="session")
def layered() -> ModuleType:
    """`layered.py`: nets of a few layers written as graphs, and packages of them."""
    path = Path(__file__).with_name("layered.py")
    made = importlib.util.spec_from_file_location("windlass_layered", path)
    if made is None or made.loader is None:
        raise RuntimeError("the layered nets are not beside the tests")
    module = importlib.util.module_from_spec(made)
    sys.modules["windlass_layered"] = module
    made.loader.exec_module(module)
    return module
