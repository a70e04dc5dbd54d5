"""What the user named, and which capture source it goes to."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

from windlass import errors, plugins
from windlass.packaging import package


class Toy:
    """A capture source for strings of its own kind."""

    name: ClassVar[str] = "toy"
    carries_code: ClassVar[bool] = False

    @classmethod
    def accepts(cls, source: Any) -> bool:
        return isinstance(source, ToyModel) or (isinstance(source, Path) and source.suffix == ".toy")


class ToyModel:
    def __call__(self) -> str:
        return "an answer, not a model"


@pytest.fixture(autouse=True)
def catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """One source that is there, and one whose library is not installed."""
    entries = {
        "absent": plugins.Entry("capture", "absent", "x:y", "absent", (".absent",)),
        "toy": plugins.Entry("capture", "toy", "x:y", "", (".toy",)),
    }

    def load(kind: str, name: str) -> Any:
        if name == "absent":
            raise errors.Unsupported("not installed", hint="pip install 'windlass[absent]'")
        return Toy

    monkeypatch.setattr(plugins, "catalog", lambda: {"capture": entries})
    monkeypatch.setattr(plugins, "load", load)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType("toy_models")
    monkeypatch.setitem(sys.modules, "toy_models", made)
    return made


def test_a_path_is_a_path(tmp_path: Path) -> None:
    file = tmp_path / "a.toy"
    file.write_bytes(b"")
    assert package.resolve(str(file)) == file
    assert package.resolve(file) == file


def test_a_live_object_stays_itself() -> None:
    model = ToyModel()
    assert package.resolve(model) is model


def test_a_factory_is_called_and_a_model_is_not(module: types.ModuleType) -> None:
    module.make = ToyModel
    module.model = ToyModel()
    module.inner = types.SimpleNamespace(build=lambda: module.model)
    assert isinstance(package.resolve("toy_models:make"), ToyModel)
    assert package.resolve("toy_models:model") is module.model
    assert package.resolve("toy_models:inner.build") is module.model


def test_a_factory_that_fails_is_told(module: types.ModuleType) -> None:
    def make() -> None:
        raise ValueError("weights.bin is missing")

    module.make = make
    with pytest.raises(errors.CaptureFailed, match=r"weights\.bin is missing"):
        package.resolve("toy_models:make")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("no/such/file.toy", "no file or folder"),
        ("no_such_module_anywhere:make", "cannot be imported"),
        ("sys:no_such_factory", "has no 'no_such_factory'"),
        ("$(id):x", "no file or folder"),
        (Path("no/such/file.toy"), "no file or folder"),
    ],
)
def test_what_is_not_there_is_not_found(source: Any, says: str) -> None:
    with pytest.raises(errors.NotFound, match=says) as caught:
        package.resolve(source)
    assert caught.value.hint


def test_a_source_is_chosen_by_suffix_or_by_asking(tmp_path: Path) -> None:
    assert package.choose(tmp_path / "a.toy")[1] is Toy
    assert package.choose(ToyModel())[0].name == "toy"


def test_a_suffix_whose_library_is_missing_names_it() -> None:
    with pytest.raises(errors.Unsupported) as caught:
        package.choose(Path("model.absent"))
    assert caught.value.hint == "pip install 'windlass[absent]'"


def test_what_nothing_captures_is_unsupported() -> None:
    with pytest.raises(errors.Unsupported, match=r"a builtins\.dict is nothing"):
        package.choose({})
    with pytest.raises(errors.Unsupported, match=r"'a\.docx' is nothing"):
        package.choose(Path("a.docx"))
